"""What a person sees when a cell has finished: dense against pruned, one problem before and after, where it lies."""

import re
from math import isnan

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssgr.cell import Cell
from ssgr.evaluation.accuracy import paired_difference
from ssgr.measured import LEGEND, heads, main_metric, row, tasks
from ssgr.progress import visible, written_or_said
from ssgr.stages import Evaluation, Subject

EXCERPT, LINES = 600, 24  # characters and lines of a completion that are shown


def closing(cell: Cell, subject: Subject, result: dict, before: Evaluation, after: Evaluation) -> None:
    """Prints the report. The cell is finished by now: output that cannot be written must not cost its result."""
    with written_or_said(f"the results lie in {cell.folder}") as output:
        write_report(output, cell, subject, result, before, after)


def write_report(
    console: Console, cell: Cell, subject: Subject, result: dict, before: Evaluation, after: Evaluation
) -> None:
    console.print()
    console.print(comparison(cell, result))
    if not cell.is_dense:
        for line in differences(before.samples, after.samples):
            console.print(Text(line))
    if result["calibration"]:
        console.print(Text(calibration_line(result["calibration"])))
    if "experts" in result["sparsity"]:
        console.print(Text(experts_line(result["sparsity"])))
    if cell.config.model.path is None:
        console.print("The bundled model and its problems are synthetic: for trying things out, not for conclusions.")
    if not cell.is_dense and len(after.samples):
        show_example(console, subject, before.samples, after.samples)
    seconds = dict(result["seconds"])
    total = seconds.pop("total")
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    rest = total - sum(seconds.values())
    console.print(Text(f"\nTime: {stages}, loading and the rest {rest:.0f} s, in all {total:.0f} s"))
    console.print(Text(f"Everything lies in {cell.folder}"))


def comparison(cell: Cell, result: dict) -> Table:
    """One pair of rows for each task. Accuracies never stand without their standard error, n and k."""
    config, sparsity = cell.config, result["sparsity"]
    named = {task: main_metric(task, result["dense_metrics"]) for task in tasks(result)}
    title = f"{config.model.name} on {', '.join(named)}"
    if not cell.is_dense:
        title += f": {config.pruner.name}, {sparsity['achieved']:.1%} {sparsity['pattern']}"
    table = Table(title=title, caption=LEGEND)
    table.add_column("", overflow="fold")
    for column in heads(named.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for task, measured in named.items():
        pair = {"dense": result["dense_metrics"]} | ({} if cell.is_dense else {"pruned": result["metrics"]})
        if len(named) > 1:
            table.add_section()
            table.add_row(task if measured in ("accuracy", task) else f"{task}, {measured}")
        for name, metrics in pair.items():
            table.add_row(name, *row(task, metrics, measured))
    return table


def differences(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """One line for each task that both models answered; the task is named where there are several."""
    lines = []
    answered = after["task"].unique()
    for task in answered:
        pair = (samples[samples["task"] == task] for samples in (before, after))
        difference, error, low, high = paired_difference(*pair)
        spread = f" ± {error:.3f}, 95 % interval [{low:+.3f}, {high:+.3f}], paired by problem"
        if isnan(error):
            spread = ", of one problem"
        named = f"{task}, " if len(answered) > 1 else ""
        lines.append(f"{named}pruned − dense: {difference:+.3f}{spread}")
    return lines


def calibration_line(calibration: dict) -> str:
    line = f"calibrated on {calibration['source']}: {calibration['tokens']:,} tokens"
    line += f", {calibration['sequences']:,} sequences"
    if calibration["traces"]:
        line += (
            f", {calibration['problems']:,} problems, {calibration['mean_trace_tokens']:.0f} tokens a trace with its "
            f"prompt, mean pass rate {calibration['mean_pass_rate']:.2f}"
        )
    return line


def experts_line(sparsity: dict) -> str:
    line = f"{sparsity['experts_by_magnitude']:,} of {sparsity['experts']:,} experts"
    return f"{line} saw fewer calibration tokens than they have inputs: pruned by magnitude (prune_report.json)"


def show_example(console: Console, subject: Subject, before: pd.DataFrame, after: pd.DataFrame) -> None:
    """A problem of the first task that the dense model solves and the pruned one does not, else the first one."""
    before, after = (samples[samples["task"] == after["task"].iloc[0]] for samples in (before, after))
    solved = before[before["correct"]].drop_duplicates("problem_id").set_index("problem_id")
    first = after.drop_duplicates("problem_id").set_index("problem_id")
    lost = [problem for problem in first.index if problem in solved.index and not first.loc[problem, "correct"]]
    problem = lost[0] if lost else first.index[0]
    dense = (solved if lost else before.drop_duplicates("problem_id").set_index("problem_id")).loc[problem]
    right = {
        name: samples.loc[samples["problem_id"] == problem, "correct"]
        for name, samples in (("dense", before), ("pruned", after))
    }
    counts = ", ".join(f"{name} {each.sum()} of {len(each)}" for name, each in right.items())
    chosen = ", chosen because it was lost" * bool(lost)
    console.print(Text(f"\nProblem {problem}, before and after{chosen} (right: {counts}):", style="bold"))
    for name, sample in (("dense", dense), ("pruned", first.loc[problem])):
        verdict = "correct" if sample["correct"] else f"wrong, {sample['finish_reason']}"
        console.print(Text(f"{name} ({verdict}, {sample['tokens']} tokens):", style="underline"))
        console.print(Text(excerpt(subject.template.completion_text(list(sample["output_ids"])))))


def excerpt(text: str) -> str:
    """Beginning and end of a text that a model wrote, with control characters made visible."""
    clean = re.sub(r"\n(?: *\n){2,}", "\n\n", visible(text, kept="\n"))  # what a model says when nothing is left of it
    if len(clean) > EXCERPT:
        clean = f"{clean[: EXCERPT * 2 // 3]} […] {clean[-EXCERPT // 3 :]}"
    lines = clean.split("\n")
    return clean if len(lines) <= LINES else "\n".join([*lines[: LINES * 2 // 3], "[…]", *lines[-LINES // 3 :]])
