"""Reads what cells left behind and draws it. Never imports torch."""

from analysis.load import load_runs

__all__ = ["load_runs"]
