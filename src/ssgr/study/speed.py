"""How fast cells go on a device, by those that have finished there: what the dry run's estimates stand on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ssgr.cell import Cell
from ssgr.models.files import BUNDLED_MODEL
from ssgr.results import read_result

CARD = BUNDLED_MODEL.parent / "card.json"  # of the bundled model; its `speed` was measured as the card says
SMALL = 100  # problems: cells of fewer fill no batch, and say little of what one problem more costs


@dataclass(frozen=True)
class Speed:
    """What a cell costs: seconds of pruning per calibration token, and so on, and what does not grow with it."""

    tokens_per_second: float
    mean_tokens: float  # of one completion
    pruning_per_token: float
    evaluation_per_problem: float  # seconds beside generating: divergence, grading
    overhead: float  # loading and the rest: what does not grow
    source: str

    def seconds(self, cell: Cell, problems: int, generated: int) -> float:
        """Of this cell, with `generated` completions to be made that other cells will then share."""
        repeats = getattr(cell.config.evaluation, "repeats", 0)  # not every evaluation lets the pruned model generate
        completions = problems * repeats * (not cell.is_dense) + generated
        generating = completions * self.mean_tokens / self.tokens_per_second
        calibration = cell.config.calibration
        budget = calibration.tokens or calibration.sequences * calibration.max_seq_len
        tokens = budget if cell.reads_calibration else 0
        return self.overhead + self.pruning_per_token * tokens + self.evaluation_per_problem * problems + generating


@dataclass(frozen=True)
class Answers:
    """Completions of one model on one task: how many, their tokens, and the seconds that generating them took."""

    count: int
    tokens: float
    seconds: float


def measured(cell: Cell) -> Speed | None:
    """From the finished cells of this model below runs_dir that ran on such a device, else from the model's card."""
    weights = cell.identity["model"]["weights"]
    return speed_on(device_of(cell.config.device), json.dumps(weights), Path(cell.config.runs_dir).absolute())


@cache  # a plan asks for every cell
def speed_on(device: str, weights_json: str, runs_dir: Path) -> Speed | None:
    weights = json.loads(weights_json)
    found = [
        result
        for path in sorted(runs_dir.glob("*/*/result.json"))
        if (result := read_result(path.parent)) and is_alike(result, weights, device)
    ]
    card = card_of(weights, device)
    if found:
        return speed_of(found, f"going by {len(found)} finished cells of this model on {device}", card)
    return card


def card_of(weights: Any, device: str) -> Speed | None:
    """What the bundled model's card says of its speed on such a device."""
    card, kind = json.loads(CARD.read_text(encoding="utf-8")), device.partition(",")[0]
    known = weights == card["weights"] and kind in card.get("speed", {})
    return Speed(**card["speed"][kind]) if known else None


def is_alike(result: dict[str, Any], weights: Any, device: str) -> bool:
    model = result["model"]
    return model["weights"] == weights and model["device"] == device and result["sparsity"]["pattern"] != "dense"


@cache
def device_of(name: str) -> str:
    from ssgr.stages import choose_device, device_name

    return device_name(choose_device(name))


def speed_of(results: Sequence[dict[str, Any]], source: str, card: Speed | None = None) -> Speed:
    """What these cells took. Where small ones alone cannot tell what one problem more costs, the card does."""
    made: list[Answers] = []
    pruning, measuring, idle = [], [], []
    for result in results:
        seconds, answers = result["seconds"], answers_of(result["metrics"])
        beside = seconds["evaluation"] + seconds.get("dense", 0.0) - sum(part.seconds for part in answers)
        dense = answers_of(result["dense_metrics"])
        spent = sum(part.seconds for part in dense)
        if spent <= seconds.get("dense", beside):  # made by this cell, not found in the cache
            answers, beside = answers + dense, beside - spent
        made += answers
        measuring.append((problems_of(result), max(beside, 0.0)))
        if result["calibration"]:  # what reads no calibration data says nothing of its cost
            pruning.append((result["calibration"]["tokens"], seconds["pruning"]))
        idle.append(2 * seconds["total"] - sum(seconds.values()))
    if not made:  # no pruned model has answered yet; the dense one may have, and costs the same
        made = [part for result in results for part in answers_of(result["dense_metrics"])]
    largest = max(problems for problems, _ in measuring)
    known = card if largest < SMALL else None
    generation = fixed_and_rate(((part.tokens, part.seconds) for part in made), known and 1 / known.tokens_per_second)
    pruned = fixed_and_rate(pruning)
    beside = fixed_and_rate(measuring, known and known.evaluation_per_problem)
    if largest < SMALL:
        source += f" (of at most {largest} problems)" + " and by its card" * (known is not None)
    if not made and card is not None:
        per_second, length = card.tokens_per_second, card.mean_tokens
    else:
        per_second = 1 / generation[1] if generation[1] else float("inf")
        length = sum(part.tokens for part in made) / max(sum(part.count for part in made), 1)
    return Speed(
        tokens_per_second=per_second,
        mean_tokens=length,
        pruning_per_token=pruned[1],
        evaluation_per_problem=beside[1],
        overhead=median(idle) + generation[0] + pruned[0] + beside[0],
        source=source,
    )


def fixed_and_rate(points: Iterable[tuple[float, float]], known: float | None = None) -> tuple[float, float]:
    """Of (amount, seconds): seconds that each took whatever its amount, and seconds per amount; neither is negative.

    By least squares where the amounts differ enough to tell one from the other; else by the rate that is `known`, and
    without one as if all of it grew.
    """
    amounts, seconds = np.array([point for point in points if point[0]] or [(1.0, 0.0)]).T
    rate = known
    # more than answers of other lengths make; a slope below 0 tells of other things than amounts
    if amounts.max() > 4 * amounts.min() and (slope := np.polyfit(amounts, seconds, 1)[0]) > 0:
        rate = slope
    if rate is not None and (fixed := seconds.mean() - rate * amounts.mean()) >= 0:
        return float(fixed), float(rate)
    return 0.0, float(seconds.sum() / amounts.sum())


def answers_of(metrics: dict[str, float]) -> list[Answers]:
    """What one model has answered, task by task."""
    found = []
    for task in dict.fromkeys(name.partition("/")[0] for name in metrics):
        seconds, length = metrics.get(f"{task}/seconds"), metrics.get(f"{task}/mean_tokens")
        if seconds and length:
            count = round(metrics[f"{task}/problems"] * metrics[f"{task}/repeats"])
            found.append(Answers(count, count * length, seconds))
    return found


def problems_of(result: dict[str, Any]) -> int:
    """How many the main evaluation put, whose metrics come first."""
    task = next(iter(result["metrics"]), "").partition("/")[0]
    return round(result["metrics"].get(f"{task}/problems") or 0)
