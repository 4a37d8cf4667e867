"""ssgr: prune reasoning models with their own reasoning, and measure what the calibration data did."""

__version__ = "0.1.0"
