"""The numbers of a figure as one table, made before anything is drawn: what is drawn is read from it.

Columns: panel, kind (mean | seed | dense | cell), series, arm, at (where a curve has a number on its axis), seed,
value, low, high (a mean's 95 % interval, the dense model's ± one standard error), problems.
"""

from collections.abc import Callable, Iterable

import pandas as pd

from analysis import stats
from analysis.arms import Arm, Arms

COLUMNS = ("panel", "kind", "series", "arm", "at", "seed", "value", "low", "high", "problems")
MEASURES = {"accuracy": "accuracy", "kl": "KL per token (nats)"}


def measures(arms: Arms) -> list[str]:
    """What can be drawn of all these arms."""
    return ["accuracy"] * arms.has_accuracy + ["kl"] * arms.has_kl


def arm_rows(
    arms: Iterable[Arm],
    panel: str,
    arm_name: Callable[[Arm], str],
    series: Callable[[Arm], str] = lambda arm: "",
    at: Callable[[Arm], float] = lambda arm: float("nan"),
) -> list[dict]:
    """Mean with interval of these arms, and every calibration seed where there are several."""
    rows = []
    for arm in arms:
        values = arm.measure(panel)
        about = {"panel": panel, "series": series(arm), "arm": arm_name(arm), "at": at(arm)}
        about["problems"] = values.shape[-1]
        estimate = stats.mean(values)
        alone = arm.seeds[0] if len(arm.seeds) == 1 else None  # its point is the mean
        bounds = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        rows.append(about | {"kind": "mean", "seed": alone} | bounds)
        if alone is None and len(arm.seeds) > 1:
            for seed, value in zip(arm.seeds, values.mean(1), strict=True):
                rows.append(about | {"kind": "seed", "seed": seed, "value": value})
    return rows


def dense_rows(arms: Arms) -> list[dict]:
    """The dense model's line, where a panel of accuracy shows it."""
    return [dense_row(arms)] * arms.has_accuracy


def dense_row(arms: Arms, panel: str = "accuracy") -> dict:
    dense = arms.dense
    bounds = {"value": dense.value, "low": dense.value - dense.se, "high": dense.value + dense.se}
    return {"panel": panel, "kind": "dense", "series": "dense", "arm": "dense", "problems": len(arms.problems)} | bounds


def table(rows: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=[*COLUMNS, *(name for name in frame if name not in COLUMNS)])
    return frame.astype({"seed": "Int64"})
