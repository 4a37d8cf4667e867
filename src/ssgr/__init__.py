"""ssgr: prune reasoning models with their own reasoning, and measure what the calibration data did."""

import os

# Threads that wait for each other by spinning take the core from the thread that they wait for as soon as anything else
# runs: on two cores with two other busy processes, generation was at least ten times slower. A short spin keeps its
# speed on a quiet machine. Read when torch is loaded, by GNU's and by Intel's OpenMP.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

__version__ = "0.1.0"
