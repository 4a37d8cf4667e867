"""ssgr: prune reasoning models with their own reasoning, and measure what the calibration data did."""

import os

# Threads that wait for each other by spinning take the core from the thread that they wait for as soon as anything else
# runs. On two cores beside two busy loops, generation made 500 tokens/s with the default and 830 with a short spin;
# beside other multi-threaded jobs the default hardly moved at all. On a quiet machine a short spin costs nothing. Read
# when torch is loaded, by GNU's and by Intel's OpenMP.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

__version__ = "0.1.0"
