"""Evaluation: accuracy through lm-eval on an engine, and the divergence from the dense model."""
