"""What a person reads of stores: the list of them, one store's bins, one trace with its prompt and completion.

Questions and completions are other people's and models' text: they are shown as they are, without markup, and with
control characters made visible.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ssgr.errors import UserError
from ssgr.progress import visible
from ssgr.traces.bins import length_at
from ssgr.traces.kept import KEPT
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import StoreView, TraceStore
from ssgr.traces.stores import whole_view
from ssgr.traces.tables import COLUMNS, LENGTH_PERCENTILES, ROWS, difficulty_thirds, length_thirds

BOUNDS = ("pass (2/3, 1]", "pass (1/3, 2/3]", "pass (0, 1/3]", "pass 0")


def list_table(stores: Iterable[tuple[str, TraceStore]]) -> Table:
    """One row per (name, store): whose traces, how many, how large; narrow enough for 80 columns."""
    table = Table("store", "model, problems, sampling", "traces", "size", title="trace stores", show_lines=True)
    for name, store in stores:
        index, made = store.index, store.manifest
        right = int((index["correct"].eq(True) & (index["finish_reason"] == "stop")).sum())
        ungraded = int(index["correct"].isna().sum())
        k = int(index["rollout"].max()) + 1 if len(index) else 0
        whose = [made.get("model") or "unnamed", made.get("problem_set") or "", sampling_line(made)]
        held = [f"{index['problem_id'].nunique():,} problems × {k}", f"{len(index):,} traces"]
        held += [f"{right:,} correct"] if right or not ungraded else []
        held += [f"{ungraded:,} not graded"] if ungraded else []
        tokens = int(index["prompt_tokens"].sum() + index["tokens"].sum())
        size = [f"{short(tokens)} tokens", f"{size_of(store.folder) / 1e6:,.1f} MB"]
        table.add_row(name, *(Text(visible("\n".join(filter(None, lines)))) for lines in (whose, held, size)))
    return table


def size_of(folder: Path) -> int:
    """Bytes of all files of the store."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sampling_line(manifest: dict[str, Any]) -> str:
    made = manifest.get("sampling") or {}
    parts = [f"T {made['temperature']:g}"] if made.get("temperature") is not None else []
    parts += [f"top-p {made['top_p']:g}"] if made.get("top_p") is not None else []
    parts += [f"≤ {made['max_new_tokens']:,}"] if made.get("max_new_tokens") is not None else []
    return ", ".join(parts)


def short(count: int) -> str:
    """Large counts in thousands (k), millions (M) and billions (G)."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)


def store_line(store: TraceStore) -> str:
    index, made = store.index, store.manifest
    ungraded = int(index["correct"].isna().sum())
    cut = float((index["finish_reason"] != "stop").mean()) if len(index) else 0.0
    line = f"{made.get('model') or 'an unnamed model'} on {made.get('problem_set') or 'unnamed problems'}: "
    line += f"{len(index):,} traces of {index['problem_id'].nunique():,} problems, {cut:.1%} cut"
    line += f", {ungraded:,} not graded" if ungraded else ""
    line += ", ids of the correct ones alone" if made.get(KEPT) else ""
    sampling = sampling_line(made)
    return visible(line + (f" ({sampling})" if sampling else ""))


def bins_table(view: StoreView) -> Table:
    """The sizes of the bins of difficulty and of length: what each holds, and about how much at one trace a problem."""
    correct = view.traces[view.traces["correct"]]
    table = Table(title="correct traces by bin · tokens with prompts")
    for column in ("bin", "bounds", "problems", "traces", "tokens", "1 trace each"):
        table.add_column(column, justify="left" if column in ("bin", "bounds") else "right")
    thirds = pd.Series(difficulty_thirds(view), index=view.solved.index)
    level = correct["problem_id"].map(thirds).to_numpy()
    for number, name in enumerate(ROWS):
        problems = int((thirds == number).sum())
        if name != "never solved" or problems:
            table.add_row(name, BOUNDS[number], f"{problems:,}", *_counts(correct[level == number]))
    table.add_section()
    lengths = correct["tokens"].to_numpy()
    edges = [length_at(lengths, percentile) for percentile in LENGTH_PERCENTILES] if len(lengths) else []
    bounds = [f"tokens ≤ {edges[0]:,}", f"≤ {edges[1]:,}", f"> {edges[1]:,}"] if edges else ["–"] * 3
    third = length_thirds(lengths, lengths)
    for number, name in enumerate(COLUMNS):
        rows = correct[third == number]
        table.add_row(name, bounds[number], f"{rows['problem_id'].nunique():,}", *_counts(rows))
    return table


def _counts(rows: pd.DataFrame) -> tuple[str, str, str]:
    tokens = rows["prompt_tokens"] + rows["tokens"]
    one_each = tokens.groupby(rows["problem_id"].to_numpy()).mean().sum() if len(rows) else 0
    return f"{len(rows):,}", f"{int(tokens.sum()):,}", f"≈ {one_each:,.0f}"


def problem_page(store: TraceStore, asked: str, template: PromptTemplate | None) -> Group:
    """One problem with a table of its rollouts, and one of them in full: the one asked for, else the first.

    Raises UserError where the store holds no such problem or rollout.
    """
    problem, rollout = _find(store, asked)
    view = whole_view(store)
    rows = view.all_traces[view.all_traces["problem_id"] == problem.problem_id]
    if rows.empty:
        raise UserError(f"problem {problem.problem_id!r} has no trace in {store.folder}")
    chosen = rows if rollout is None else rows[rows["rollout"] == rollout]
    if chosen.empty:
        held = ", ".join(str(number) for number in rows["rollout"])
        raise UserError(f"problem {problem.problem_id!r} has no rollout {rollout}; choices: {held}")
    graded = store.index.set_index(["problem_id", "rollout"])["correct"]
    lines = [*_question(problem, rows)]
    if rollout is None:
        lines.append(_rollouts(rows, graded))
    return Group(*lines, *_trace(view, chosen.iloc[:1], graded, template))


def _find(store: TraceStore, asked: str) -> tuple[Problem, int | None]:
    problems = {problem.problem_id: problem for problem in store.problems}
    if asked in problems:
        return problems[asked], None
    name, _, number = asked.rpartition("/")
    if name in problems and number.isdecimal():
        return problems[name], int(number)
    first = ", ".join(list(problems)[:3])
    raise UserError(f"no problem {asked!r} in {store.folder}: its {len(problems):,} problems begin with {first}")


def _question(problem: Problem, rows: pd.DataFrame) -> list[Text]:
    facts = {"level": problem.level, "family": problem.family, "subject": problem.subject}
    known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    head = f"{problem.problem_id}: {int(rows['correct'].sum())} of {len(rows)} correct" + (
        f" ({known})" if known else ""
    )
    gold = problem.answer or "none is known"
    return [Text(visible(head), style="bold"), Text(visible(problem.question or "(its question is not known)")),
            Text(f"gold answer: {visible(gold)}\n")]  # fmt: skip


def _rollouts(rows: pd.DataFrame, graded: pd.Series) -> Table:
    table = Table("rollout", "verdict", "ended by", "prompt", "tokens", "answer")
    for row in rows.itertuples():
        verdict = verdict_of(graded[row.problem_id, row.rollout], row.finish_reason)
        cells = [row.rollout, verdict, row.finish_reason, row.prompt_tokens, row.tokens, _given(row.answer)]
        table.add_row(*(Text(visible(str(cell))) for cell in cells))
    return table


def verdict_of(correct: Any, finish_reason: str) -> str:
    if pd.isna(correct):
        return "not graded"
    return "correct" if correct and finish_reason == "stop" else "wrong"


def _given(answer: Any) -> str:
    return "–" if pd.isna(answer) else answer


def _trace(view: StoreView, row: pd.DataFrame, graded: pd.Series, template: PromptTemplate | None) -> list[Text]:
    trace = row.iloc[0]
    ((prompt, output),) = view.sequences(row)
    verdict = verdict_of(graded[trace["problem_id"], trace["rollout"]], trace["finish_reason"])
    head = f"rollout {trace['rollout']}: {verdict}, ended by {trace['finish_reason']}, answer {_given(trace['answer'])}"
    lines = [Text(visible(f"\n{head}"), style="bold")]
    for name, ids, tokens in (("prompt", prompt, len(prompt)), ("completion", output, trace["tokens"])):
        lines.append(Text(f"{name}, {tokens:,} tokens:", style="underline"))
        if len(ids) < tokens:
            lines.append(Text("(its ids were not kept)"))
        elif template is None:
            lines.append(Text(f"{' '.join(map(str, ids[:12]))} … (--tokenizer DIR shows the text)"))
        else:
            lines.append(Text(visible(template.tokenizer.decode(ids.tolist(), skip_special_tokens=False)) + "\n"))
    return lines
