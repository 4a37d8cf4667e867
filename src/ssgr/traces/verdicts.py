"""What a person reads of grades: where our grader and a file's column differ, and what a regrading changed."""

from typing import Any

from rich.text import Text

from ssgr.progress import visible
from ssgr.traces.importing import Agreement

SHOWN = 80  # characters of an answer
VERDICTS = {True: "correct", False: "wrong", None: "not graded"}


def agreement_text(agreement: Agreement) -> Text:
    """How many rows by both verdicts, then every difference with the answer that was read and the gold one."""
    counts = agreement.counts
    lines = []
    if any(theirs is not None for theirs, _ in counts):
        both = [counts.get((verdict, verdict), 0) for verdict in (True, False)]
        only = [counts.get((theirs, not theirs), 0) for theirs in (True, False)]
        lines.append(
            f"our grader and the column `correct` agree on {sum(both):,}: {both[0]:,} correct, {both[1]:,} wrong"
        )
        lines.append(f"only the column says correct: {only[0]:,}; only our grader: {only[1]:,}")
    news = {verdict: counts.get((None, verdict), 0) for verdict in (True, False)}
    if any(news.values()):
        lines.append(f"graded for the first time: {news[True]:,} correct, {news[False]:,} wrong")
    for row in agreement.differences:
        other = "" if row["their_answer"] in (None, row["answer"]) else f" (there {row['their_answer']!r})"
        verdicts = f"column {VERDICTS[row['theirs']]}, grader {VERDICTS[row['ours']]}"
        lines.append(
            f"  {row['trace']}: {verdicts}: answer {_quoted(row['answer'])}{other}, gold {_quoted(row['gold'])}"
        )
    return Text(visible("\n".join(lines)))


def changes_text(changed: list[dict[str, Any]], named: int) -> Text:
    """The first `named` changed verdicts, and how many more there are."""
    lines = [
        f"  {row['trace']}: {VERDICTS[row['before']]} → {VERDICTS[row['after']]}: answer {_quoted(row['answer'])}, "
        f"gold {_quoted(row['gold'])}"
        for row in changed[:named]
    ]
    more = [f"  … and {len(changed) - named:,} more"] if len(changed) > named else []
    return Text(visible("\n".join([*lines, *more])))


def _quoted(answer: str | None) -> str:
    if answer is None:
        return "none"
    return f"`{answer}`" if len(answer) <= SHOWN else f"`{answer[:SHOWN]}…`"
