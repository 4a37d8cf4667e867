"""ssgr: prune reasoning models with their own reasoning, and measure what the calibration data did."""

import os

# Threads that wait by spinning take the core from the thread they wait for as soon as anything else runs: on two cores
# with two other busy processes, generation was at least ten times slower. Read by OpenMP when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
