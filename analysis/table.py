"""Every finished cell as one Markdown table."""

import pandas as pd


def markdown(runs: pd.DataFrame) -> str:
    """Accuracies with their standard errors, n and k, and the divergence beside them; dense models first."""
    lines = [
        "| model, task | pruner | calibrated on | tokens | seed | accuracy ± se | n × k | mean tokens | cut | KL |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for _, group in runs.groupby(["model", "task", "dense_accuracy", "dense_problems"], sort=True, dropna=False):
        dense = {name.removeprefix("dense_"): value for name, value in group.iloc[0].items() if "dense_" in name}
        lines.append(_line(group.iloc[0], dense, "dense"))
        for _, run in group[group["pattern"] != "dense"].sort_values(["pruner", "sparsity", "kl"]).iterrows():
            pattern = "" if run["pattern"] == "unstructured" else f" {run['pattern']}"
            pruner = f"{run['pruner']} {100 * run['sparsity']:.3g}%{pattern}"
            if pd.isna(run["tokens"]):
                lines.append(_line(run, run, pruner, "nothing"))
            else:
                lines.append(_line(run, run, pruner, _source(run), f"{run['tokens']:,.0f}", f"{run['seed']:.0f}"))
    return "\n".join(lines)


def _source(run) -> str:
    """What a cell was calibrated on: the source, and whatever is not its default."""
    parts = [run["calibration"]]
    parts += [run[name] for name in ("difficulty", "length") if run[name] != "all"]
    if run["correctness"] == "any":
        parts.append("right or wrong")
    elif run["correctness"] == "incorrect":
        parts.append("wrong")
    if run["token_weights"] != "all":
        parts.append(f"weights {run['token_weights']}")
    return ", ".join(parts)


def _line(about, metrics, pruner: str, source: str = "", tokens: str = "", seed: str = "") -> str:
    kl = metrics.get("kl")
    divergence = "" if kl is None or pd.isna(kl) else f"{kl:.4f}"
    if divergence and not pd.isna(metrics.get("kl_se")):
        divergence += f" ± {metrics['kl_se']:.4f}"
    cells = [
        f"{about['model']}, {about['task']}",
        pruner,
        source,
        tokens,
        seed,
        f"{metrics['accuracy']:.3f} ± {metrics['accuracy_se']:.3f}",
        f"{int(metrics['problems']):,} × {int(metrics['repeats'])}",
        f"{metrics['mean_tokens']:.0f}",
        f"{metrics['truncated']:.1%}",
        divergence,
    ]
    return "| " + " | ".join(cells) + " |"
