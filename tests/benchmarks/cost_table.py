"""What a study costs, from what cost.py measured and the assumptions that are printed above the table."""

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cost_blocks import PRUNED

from ssgr.study.watch import spoken

GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """A model that answers in so many tokens on average, and its calibration budget."""

    name: str
    mean_tokens: int
    calibration_tokens: int

    @classmethod
    def parse(cls, text: str) -> "Kind":
        name, *numbers = text.split(":")
        return cls(name, *map(int, numbers))


def add_assumptions(parser: argparse.ArgumentParser) -> None:
    of = parser.add_argument_group("assumptions of --table")
    kinds = [Kind("instruct", 560, 131_072), Kind("reasoning", 4000, 1_000_000)]
    of.add_argument(
        "--kinds", type=Kind.parse, nargs="+", default=kinds, help="NAME:MEAN_TOKENS:CALIBRATION_TOKENS of each kind"
    )
    of.add_argument("--problems", type=int, default=2000, help="that rollouts are made of")
    of.add_argument("--rollouts", type=int, default=8, help="of each problem")
    of.add_argument("--evaluated", type=int, default=500, help="problems of the evaluation, as in MATH-500")
    of.add_argument("--dense-repeats", type=int, default=8)
    of.add_argument("--repeats", type=int, default=4, help="of each cell")
    of.add_argument("--rambling", type=float, default=1.5, help="mean tokens of a pruned model over the dense one's")
    of.add_argument("--diverging", type=int, default=500, help="dense samples that the divergence is measured on")
    of.add_argument("--cells", type=int, default=16, help="4 arms x 4 seeds")
    of.add_argument("--pruner", choices=PRUNED, default="sparsegpt")


def assumptions(given: argparse.Namespace) -> list[str]:
    kinds = "; ".join(
        f"{kind.name}: {kind.mean_tokens:,} tokens a completion, {kind.calibration_tokens:,} of calibration"
        for kind in given.kinds
    )
    return [
        f"Assumed: {given.problems:,} problems x {given.rollouts} rollouts; dense evaluation {given.evaluated} x "
        f"{given.dense_repeats}; {given.cells} cells, each {given.pruner} 50 %, {given.evaluated} x {given.repeats} "
        f"completions, {given.rambling:g} times as long as the dense model's, and the divergence on "
        f"{given.diverging} dense samples. {kinds}.",
        "A completion that is being made at a random moment is about twice as long as the mean, so its rate is taken "
        "where the measured length is nearest to that. Pruning is taken at the nearest measured budget, in proportion. "
        "Left out: reading weights and prompts, grading, and the last completions, which run with few others.",
    ]


def print_table(measured: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Markdown: what is assumed, a line for each shape and kind, and what was measured."""
    for found in measured:
        if missing := {"generation", "handover_seconds_per_block", "pruning", "divergence"} - found.keys():
            raise SystemExit(f"{found['shape']} on {found['card']}: {', '.join(sorted(missing))} not measured")
    cards = ", ".join(sorted({found["card"] for found in measured}))
    print("\n\n".join(assumptions(given)), end="\n\n")
    columns = ("weights", "model", "rollouts", "dense evaluation", "a cell: pruning", "evaluation", "divergence")
    columns += ("hand-over", f"study of {given.cells} cells, GPU-hours", "tokens/s, dense")
    print(f"On one {cards}:", end="\n\n")
    print(line(columns), line(["---"] * len(columns)), sep="\n")
    for found in measured:
        for kind in given.kinds:
            cost = study(found, kind, given)
            parts = ("rollouts", "dense", "pruning", "evaluation", "divergence", "handover")
            at = nearest(found["generation"], "new_tokens", 2 * kind.mean_tokens)
            rate = f"{at['tokens_per_second']:,.0f} (in completions of {at['new_tokens']:,})"
            hours = f"{cost['study'] / 3600:.2g}" if cost["study"] < 36_000 else f"{cost['study'] / 3600:,.0f}"
            print(line([found["shape"], kind.name, *(spoken(cost[part]) for part in parts), hours, rate]))
    print()
    for found in measured:
        print("\n".join(measured_lines(found)), end="\n\n")


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def study(found: dict[str, Any], kind: Kind, given: argparse.Namespace) -> dict[str, float]:
    """Seconds of a study's parts, those of a cell for one cell; `study` is their sum over all cells."""
    diverging = nearest(found["divergence"], "length", kind.mean_tokens)
    compared, passes = given.diverging * kind.mean_tokens, diverging["block"] * found["blocks"]
    of_pruner = [row for row in found["pruning"] if row["pruner"] == given.pruner]
    pruned = nearest(of_pruner, "tokens", kind.calibration_tokens)
    pruning = pruned["seconds_per_block"] * found["blocks"] + pruned["other_seconds"]
    dense = given.evaluated * given.dense_repeats
    cost = {
        "rollouts": generating(found, given.problems * given.rollouts, kind.mean_tokens),
        "dense": generating(found, dense, kind.mean_tokens) + compared * (passes + diverging["dense"]),
        "pruning": pruning * kind.calibration_tokens / pruned["tokens"],
        "evaluation": generating(found, given.evaluated * given.repeats, kind.mean_tokens * given.rambling),
        "divergence": compared * (passes + diverging["pruned"]),
        "handover": found["handover_seconds_per_block"] * found["blocks"],
    }
    cell = sum(cost[part] for part in ("pruning", "evaluation", "divergence", "handover"))
    once = found["engine"]["start_seconds"] + cost["rollouts"] + cost["dense"]
    return cost | {"study": once + given.cells * cell}


def generating(found: dict[str, Any], completions: int, mean_tokens: float) -> float:
    """Seconds."""
    rate = nearest(found["generation"], "new_tokens", 2 * mean_tokens)["tokens_per_second"]
    return completions * mean_tokens / rate


def nearest(rows: list[dict[str, Any]], column: str, wanted: float) -> dict[str, Any]:
    return min(rows, key=lambda row: abs(math.log(row[column] / wanted)))


def measured_lines(found: dict[str, Any]) -> list[str]:
    """What was measured of one shape, in words."""
    blocks = found["blocks"]
    lines = [f"{found['shape']}: {found['parameters'] / 1e9:.2f} B parameters, {blocks} blocks; {found['card']}"]
    if "engine" in found:
        start = found["engine"]
        room = f"room for {start['cache_tokens']:,} tokens" if start["cache_tokens"] else "room unknown"
        share = f"gpu_memory_utilization {start['gpu_memory_utilization']:g}"
        lines.append(f"- engine: started in {start['start_seconds']:.0f} s; {share}: {room}")
    for row in found.get("generation", []):
        rate = f"{row['tokens_per_second']:,.0f} tokens/s from {row['rows']} rows"
        prompts = f"prompts are read at {row['prompt_tokens_per_second']:,.0f} tokens/s"
        lines.append(f"- in the middle of completions of {row['new_tokens']:,} tokens: {rate}; {prompts}")
    if "handover_seconds_per_block" in found:
        lines.append(f"- hand-over of pruned weights: {found['handover_seconds_per_block'] * blocks:.1f} s")
    for row in found.get("pruning", []):
        budget = f"{row['tokens']:,} tokens in sequences of {row['length']:,}"
        all_ = f"{row['seconds_per_block'] * blocks + row['other_seconds']:.0f} s"
        seconds = f"{row['seconds_per_block']:.2f} s a block, {all_}"
        lines.append(f"- {row['pruner']}, {budget}: {seconds}, {memory(found, row)}")
    for row in found.get("divergence", []):
        dense, pruned = (1e5 * (row["block"] * blocks + row[side]) for side in ("dense", "pruned"))
        cost = f"{dense:.1f} s dense (with writing its states), {pruned:.1f} s in each cell"
        lines.append(f"- divergence, 100,000 tokens in sequences of {row['length']:,}: {cost}")
    return lines


def memory(found: dict[str, Any], row: dict[str, Any]) -> str:
    """What pruning takes of the card, and what the engine's share leaves for it: a study has both on one card."""
    taken = row["memory_bytes"] + 2 * found["parameters"]
    said = f"{taken / GIB:.1f} GiB with the weights"
    if "engine" not in found or "card_bytes" not in found:
        return said
    left = (1 - found["engine"]["gpu_memory_utilization"]) * found["card_bytes"]
    return f"{said}, {'of' if taken <= left else 'which do not fit into'} {left / GIB:.1f} that the engine leaves"
