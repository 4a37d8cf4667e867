"""What is said of one model on one task, wherever it is printed: no accuracy without its standard error, n and k."""

from collections.abc import Iterable

# what stands beside a task's main figure
COMPANIONS = {"problems", "seconds", "tokens", "kl", "kl_se", "kl_balanced", "nll", "top1_changed"}
COLUMNS = ("n × k", "tokens", "cut", "KL/token (nats)")
LEGEND = "cut: stopped at the token cap, or never ended its reasoning · KL: from the dense model, on its samples"


def tasks(result: dict) -> list[str]:
    """The tasks of a result.json, the main evaluation's first."""
    return list(dict.fromkeys(name.partition("/")[0] for name in [*result["metrics"], *result["dense_metrics"]]))


def main_metric(task: str, metrics: dict[str, float]) -> str:
    """The accuracy, or the first figure that a task has in its place."""
    names = [name.partition("/")[2] for name in metrics if name.partition("/")[0] == task]
    return "accuracy" if "accuracy" in names else next((name for name in names if name not in COMPANIONS), "accuracy")


def heads(measured: Iterable[str]) -> tuple[str, ...]:
    """Over what `row` gives: the name of the main figures, where all are of one kind, and COLUMNS."""
    names = set(measured)
    name = names.pop() if len(names) == 1 else "score"
    return (name if name.endswith("perplexity") else f"{name} ± se", *COLUMNS)


def row(task: str, metrics: dict[str, float], measured: str = "accuracy") -> list[str]:
    """The main figure, problems x repeats, mean generated tokens, share that was cut off, divergence from the dense."""

    def number(name: str, style: str) -> str:
        value = metrics.get(f"{task}/{name}")
        return "–" if value is None or value != value else format(value, style)

    kl = number("kl", ".4f")
    if metrics.get(f"{task}/kl_se"):
        kl += f" ± {number('kl_se', '.4f')}"
    score = number(measured, ".4g" if measured.endswith("perplexity") else ".3f")
    if f"{task}/{measured}_se" in metrics:
        score += f" ± {number(f'{measured}_se', '.3f')}"
    return [
        score,
        " × ".join(number(name, ",") for name in ("problems", "repeats") if f"{task}/{name}" in metrics) or "–",
        number("mean_tokens", ".0f"),
        number("truncated", ".1%"),
        kl,
    ]
