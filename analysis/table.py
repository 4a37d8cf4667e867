"""Every finished cell as one table."""

from typing import NamedTuple

import pandas as pd

from analysis.comparable import unusual

HEADS = ("study", "model, task", "pruner", "calibrated on", "tokens", "seed")
HEADS += ("accuracy ± se", "n × k", "mean tokens", "cut", "KL")


class Row(NamedTuple):
    """One line of the table: its texts below HEADS, and the run that it tells of (None for a dense model)."""

    cells: list[str]
    run: pd.Series | None = None


def markdown(runs: pd.DataFrame) -> str:
    """The table of these runs as Markdown."""
    return "\n".join([_line(HEADS), "|---" * len(HEADS) + "|", *(_line(row.cells) for row in rows(runs))])


def rows(runs: pd.DataFrame) -> list[Row]:
    """Accuracies with their standard errors, n and k, and the divergence beside them, the study first.

    A dense model comes before what was pruned of it: one row of its own, without a study, for all that share it.
    """
    found = []
    runs = runs.assign(dense_line=[_line(_dense_cells(run)) for _, run in runs.iterrows()])
    same = ["model", "task", "dense_problems", "dense_repeats", "dense_line"]
    for _, group in runs.groupby(same, sort=True, dropna=False):
        found.append(Row(_dense_cells(group.iloc[0])))
        pruned = group[group["pattern"] != "dense"]
        for _, run in pruned.sort_values(["study", "pruner", "sparsity", "kl"]).iterrows():
            pattern = "" if run["pattern"] == "unstructured" else f" {run['pattern']}"
            pruner = f"{run['pruner']} {100 * run['sparsity']:.3g}%{pattern}"
            if pd.isna(run["tokens"]):
                found.append(Row(_cells(run, run, pruner, "nothing", study=run["study"]), run))
            else:
                told = (source(run), f"{run['tokens']:,.0f}", f"{run['seed']:.0f}")
                found.append(Row(_cells(run, run, pruner, *told, study=run["study"]), run))
    return found


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _dense_cells(run) -> list[str]:
    """Without its KL from itself, which some cells measured as 0 and others did not."""
    dense = {name.removeprefix("dense_"): value for name, value in run.items() if name.startswith("dense_")}
    return _cells(run, dense | {"kl": None}, "dense")


def source(run) -> str:
    """What a cell was calibrated on: the source, and whatever is not its default."""
    return ", ".join([run["calibration"], *unusual(run)])


def _cells(
    about, metrics, pruner: str, source: str = "", tokens: str = "", seed: str = "", study: str = ""
) -> list[str]:
    kl = metrics.get("kl")
    divergence = "" if kl is None or pd.isna(kl) else f"{kl:.4f}"
    if divergence and not pd.isna(metrics.get("kl_se")):
        divergence += f" ± {metrics['kl_se']:.4f}"
    return [
        study,
        f"{about['model']}, {about['task']}",
        pruner,
        source,
        tokens,
        seed,
        _score(metrics),
        " × ".join(f"{int(metrics[name]):,}" for name in ("problems", "repeats") if _is_known(metrics.get(name))),
        f"{metrics['mean_tokens']:.0f}" if _is_known(metrics.get("mean_tokens")) else "",
        f"{metrics['truncated']:.1%}" if _is_known(metrics.get("truncated")) else "",
        divergence,
    ]


def _score(metrics) -> str:
    """The accuracy, or what an evaluation without one measured; empty where the divergence is all there is."""
    if _is_known(metrics.get("accuracy")):
        return f"{metrics['accuracy']:.3f} ± {metrics['accuracy_se']:.3f}"
    return f"perplexity {metrics['perplexity']:.4g}" if _is_known(metrics.get("perplexity")) else ""


def _is_known(value) -> bool:
    return value is not None and not pd.isna(value)
