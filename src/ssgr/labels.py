"""What a cell's choices are called: in folder names, tables and figures."""

from dataclasses import asdict
from typing import Any

from ssgr.calibration import SOURCES
from ssgr.config import Config, Correctness, Propagation, Sinks, TokenWeights

LABELS = {  # readable names of bins; any other bin is named by its bounds
    "difficulty": {(2 / 3, 1.0): "easy", (1 / 3, 2 / 3): "medium", (0.0, 1 / 3): "hard"},
    "length": {(0.0, 33.3): "short", (33.3, 66.7): "moderate", (66.7, 100.0): "long"},
}


def sparsity_label(config: Config) -> str:
    if config.sparsity.n is not None:
        return f"n{config.sparsity.n}m{config.sparsity.m}"
    return f"s{100 * config.sparsity.value:g}"


def bin_labels(config: Config) -> list[str]:
    """The names of the difficulty and length bins, from their bounds alone; nothing for `all`."""
    return [*difficulty_labels(asdict(config.difficulty)), *length_labels(asdict(config.length))]


def choice_labels(config: Config) -> list[str]:
    """What else tells this cell from the usual one, so that a listing of folders can be read."""
    calibration, selection = config.calibration, config.selection
    propagation = getattr(config.pruner, "propagation", Propagation.pruned)
    sinks = getattr(config.pruner, "sinks", Sinks.keep)
    selects = SOURCES.get(calibration.name).selects
    by_tokens = calibration.sequences is None
    usual = {
        f"{calibration.tokens}tokens": not by_tokens or calibration.tokens == config.model.fallback.calibration_tokens,
        f"{calibration.sequences}sequences": by_tokens,
        f"{selection.correctness}": selection.correctness == Correctness.correct or not selects,
        "matched": not (selects and selection.matched),
        f"balanced_{'_'.join(selection.balance)}": not (selects and selection.balance),
        "split": not (selects and config.rollouts.split),
        f"{calibration.token_weights}_weights": calibration.token_weights == TokenWeights.all,
        f"{propagation}_propagation": propagation == Propagation.pruned or not config.pruner.reads_calibration,
        f"{sinks}_sinks": sinks == Sinks.keep,
    }
    return [label for label, as_usual in usual.items() if not as_usual]


def difficulty_labels(bounds: dict[str, Any]) -> list[str]:
    """What the difficulty's bounds are called, also for readers of result.json; nothing for `all`."""
    return bounds_labels("difficulty", bounds, {"pass_rate": "pass", "level": "level"})


def length_labels(bounds: dict[str, Any]) -> list[str]:
    """The same of the length's bounds."""
    picked = [str(bounds["pick"])] if bounds.get("pick") else []  # results of earlier versions have no pick
    return [*bounds_labels("length", bounds, {"percentile": "length", "tokens": "tokens"}), *picked]


def bounds_labels(group: str, bounds: dict[str, Any], prefixes: dict[str, str]) -> list[str]:
    found = [(bounds[name], prefix) for name, prefix in prefixes.items()]
    return [bounds_label(group, ends, prefix) for ends, prefix in found if ends is not None]


def bounds_label(group: str, bounds: list[float], prefix: str) -> str:
    for edges, label in LABELS[group].items():
        if all(abs(bound - edge) < 1e-6 for bound, edge in zip(bounds, edges, strict=True)):
            return label
    return prefix + "to".join(str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in bounds)
