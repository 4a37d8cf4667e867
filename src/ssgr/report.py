"""What a person sees when a cell has finished: dense against pruned, one problem before and after, where it lies."""

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssgr.cell import Cell
from ssgr.evaluation.accuracy import paired_difference
from ssgr.progress import written_or_said
from ssgr.stages import Evaluation, Subject

EXCERPT = 600  # characters of a completion that are shown


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
        difference, error, low, high = paired_difference(before.samples, after.samples)
        interval = f"95 % interval [{low:+.3f}, {high:+.3f}], paired by problem"
        console.print(Text(f"pruned − dense: {difference:+.3f} ± {error:.3f}, {interval}"))
    if result["calibration"]:
        console.print(Text(calibration_line(result["calibration"])))
    if cell.config.model.path is None:
        console.print("The bundled model and its problems are synthetic: for trying things out, not for conclusions.")
    if not cell.is_dense:
        show_example(console, subject, before.samples, after.samples)
    seconds = dict(result["seconds"])
    total = seconds.pop("total")
    stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    rest = total - sum(seconds.values())
    console.print(Text(f"\nTime: {stages}, loading and the rest {rest:.0f} s, in all {total:.0f} s"))
    console.print(Text(f"Everything lies in {cell.folder}"))


def comparison(cell: Cell, result: dict) -> Table:
    """Accuracies never stand without their standard error, n and k."""
    config, sparsity = cell.config, result["sparsity"]
    title = f"{config.model.name} on {config.evaluation.name}"
    if not cell.is_dense:
        title += f": {config.pruner.name}, {sparsity['achieved']:.1%} {sparsity['pattern']}"
    legend = "cut: stopped at the token cap · KL: from the dense model, on its samples"
    table = Table(title=title, caption=legend)
    for column in ("", "accuracy ± se", "n × k", "tokens", "cut", "KL/token (nats)"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row("dense", *row(config.evaluation.name, result["dense_metrics"]))
    if not cell.is_dense:
        table.add_row("pruned", *row(config.evaluation.name, result["metrics"]))
    return table


def row(task: str, metrics: dict[str, float]) -> list[str]:
    """Accuracy, problems x repeats, mean generated tokens, share that was cut off, divergence from the dense model."""

    def number(name: str, style: str) -> str:
        value = metrics.get(f"{task}/{name}")
        return "–" if value is None or value != value else format(value, style)

    kl = number("kl", ".4f")
    if metrics.get(f"{task}/kl_se"):
        kl += f" ± {number('kl_se', '.4f')}"
    return [
        f"{number('accuracy', '.3f')} ± {number('accuracy_se', '.3f')}",
        f"{number('problems', ',')} × {number('repeats', '')}",
        number("mean_tokens", ".0f"),
        number("truncated", ".1%"),
        kl,
    ]


def calibration_line(calibration: dict) -> str:
    line = f"calibrated on {calibration['source']}: {calibration['tokens']:,} tokens"
    line += f", {calibration['sequences']:,} sequences"
    if calibration["traces"]:
        line += (
            f", {calibration['problems']:,} problems, {calibration['mean_trace_tokens']:.0f} tokens a trace, "
            f"mean pass rate {calibration['mean_pass_rate']:.2f}"
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
    return clean if len(clean) <= EXCERPT else f"{clean[: EXCERPT * 2 // 3]} […] {clean[-EXCERPT // 3 :]}"
