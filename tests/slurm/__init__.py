"""A Slurm cluster in containers, and what may happen to an execution on it. `python -m tests.slurm` prints a table."""
