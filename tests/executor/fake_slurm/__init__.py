"""A batch scheduler of one machine with its state in files: what Slurm's programs say and do, as far as we use them."""
