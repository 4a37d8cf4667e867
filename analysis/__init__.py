"""Reads what cells left behind and draws it. Never imports torch."""

from analysis.load import load_divergence, load_histories, load_runs, load_samples

__all__ = ["load_divergence", "load_histories", "load_runs", "load_samples"]
