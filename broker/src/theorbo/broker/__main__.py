"""`python -m theorbo.broker`."""

import sys

from theorbo.broker.command import run_module

sys.exit(run_module())
