"""What a person sees when a cell has finished: dense against pruned, one problem before and after, where it all lies."""

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssgr.cell import Cell
from ssgr.evaluation.accuracy import paired_difference
from ssgr.stages import Evaluation, Subject

EXCERPT = 600  # characters of a completion that are shown


def closing(cell: Cell, subject: Subject, result: dict, before: Evaluation, after: Evaluation) -> None:
    console = Console(soft_wrap=True)
    console.print(comparison(cell, result, before, after))
    if cell.config.model.path is None:
        console.print("The bundled model and its problems are synthetic: for trying things out, not for conclusions.")
    if result["calibration"]:
        console.print(Text(calibration_line(result["calibration"])))
    if not cell.is_dense:
        show_example(console, subject, before.samples, after.samples)
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in result["seconds"].items())
    console.print(Text(f"Time: {seconds}"))
    console.print(Text(f"Everything lies in {cell.folder}"))


def comparison(cell: Cell, result: dict, before: Evaluation, after: Evaluation) -> Table:
    """Accuracies never stand without their standard error, n and k."""
    task = cell.config.evaluation.name
    sparsity = result["sparsity"]
    table = Table(title=f"{task}: {cell.config.model.name}, {cell.config.pruner.name} {sparsity['achieved']:.2%} {sparsity['pattern']}")
    for column in ("", "accuracy ± se", "n × k", "mean tokens", "truncated", "KL per token (nats)"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("dense", *row(task, result["dense_metrics"]))
    if cell.is_dense:
        return table
    table.add_row(f"pruned on {cell.config.calibration.name}" if result["calibration"] else "pruned", *row(task, result["metrics"]))
    difference, error, low, high = paired_difference(before.samples, after.samples)
    table.add_row("difference", f"{difference:+.3f} ± {error:.3f}", f"95 % [{low:+.3f}, {high:+.3f}]", "", "", "")
    return table


def row(task: str, metrics: dict[str, float]) -> list[str]:
    def value(name: str) -> float | None:
        return metrics.get(f"{task}/{name}")

    kl = ""
    if value("kl") is not None:
        kl = f"{value('kl'):.3f}" + (f" ± {value('kl_se'):.3f}" if value("kl_se") else "")
    return [
        f"{value('accuracy'):.3f} ± {value('accuracy_se'):.3f}",
        f"{value('problems')} × {value('repeats')}",
        f"{value('mean_tokens'):.0f}",
        f"{value('truncated'):.1%}",
        kl,
    ]


def calibration_line(calibration: dict) -> str:
    line = f"Calibrated on {calibration['source']}: {calibration['tokens']:,} tokens in {calibration['sequences']:,} sequences"
    if calibration["traces"]:
        line += (
            f", {calibration['traces']:,} traces of {calibration['problems']:,} problems, "
            f"{calibration['mean_trace_tokens']:.0f} tokens a trace, mean pass rate {calibration['mean_pass_rate']:.2f}"
        )
    return line


def show_example(console: Console, subject: Subject, before: pd.DataFrame, after: pd.DataFrame) -> None:
    """One problem that the dense model solves and the pruned one does not, or the first problem where there is none."""
    solved = before[before["correct"]].drop_duplicates("problem_id").set_index("problem_id")
    first = after.drop_duplicates("problem_id").set_index("problem_id")
    lost = [problem for problem in first.index if problem in solved.index and not first.loc[problem, "correct"]]
    problem = lost[0] if lost else first.index[0]
    dense = (solved if lost else before.drop_duplicates("problem_id").set_index("problem_id")).loc[problem]
    console.print(Text(f"\nProblem {problem}, before and after:", style="bold"))
    for name, sample in (("dense", dense), ("pruned", first.loc[problem])):
        verdict = "correct" if sample["correct"] else f"wrong, {sample['finish_reason']}"
        console.print(Text(f"{name} ({verdict}, {sample['tokens']} tokens):", style="underline"))
        console.print(Text(excerpt(subject.template.completion_text(list(sample["output_ids"])))))


def excerpt(text: str) -> str:
    """Beginning and end of a text that a model wrote, with control characters made visible."""
    clean = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
    if len(clean) <= EXCERPT:
        return clean
    return f"{clean[: EXCERPT * 2 // 3]} […] {clean[-EXCERPT // 3 :]}"
