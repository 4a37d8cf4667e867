r"""How the grader does on real problems with known answers, and on rollouts that somebody else graded.

    python tests/benchmarks/grading.py PROBLEMS.jsonl... [--workers 2] [--pairs]
    python tests/benchmarks/grading.py PROBLEMS.jsonl --rollouts ROLLOUTS.parquet [--tokenizer FOLDER]

Of each problem file (MATH's fields problem, solution, answer or GSM8K's question, answer): how many gold answers in
\boxed{} after a reasoning text, how many reference solutions, and how many answers of the next problem grade as
correct, with every surprise by name. Rollouts (unique_id, output_ids, finish_reason, correct) are graded against the
problem file's answers and compared with their own column. Measures, and asserts nothing.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from ssgr.traces.grading import grade_all

THINK_END = "</think>"
REASONING = "<think>First \\boxed{0} comes to mind, but that is too quick. Once more, with care: yes.</think>\n"


def read(path: Path) -> list[dict[str, str]]:
    """One row per problem: name, gold, solution; `name` is the line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = json.loads(line)
        gold, solution = fields["answer"], fields.get("solution")
        if solution is None:
            solution, _, gold = gold.rpartition("####")
            solution += f"#### {gold.strip()}"
        rows.append({"line": number, "id": fields.get("unique_id"), "gold": gold.strip(), "solution": solution})
    return rows


def measure(path: Path, workers: int | None, show_pairs: bool) -> None:
    problems = read(path)
    empty = [row["line"] for row in problems if not row["gold"]]
    problems = [row for row in problems if row["gold"]]
    golds = [row["gold"] for row in problems]
    print(f"{path.name}: {len(problems):,} problems, without an answer: lines {empty or 'none'}")
    boxed = [f"{REASONING}The answer is \\boxed{{{gold}}}." for gold in golds]
    report("gold boxed", problems, boxed, golds, THINK_END, workers)
    report("solutions", problems, [row["solution"] for row in problems], golds, None, workers)
    shifted = golds[1:] + golds[:1]
    started = time.perf_counter()
    graded = grade_all(
        [(f"\\boxed{{{answer}}}", gold, "stop") for answer, gold in zip(shifted, golds, strict=True)], None, workers
    )
    equal = [pair for pair, grade in zip(zip(shifted, golds, strict=True), graded, strict=True) if grade.correct]
    written = sum(len(set(pair)) == 1 for pair in equal)
    seconds = time.perf_counter() - started
    print(
        f"  shifted by one: {len(equal)} of {len(golds)} correct ({len(equal) / len(golds):.2%}), "
        f"{written} written alike, {seconds:.1f} s"
    )
    for (answer, gold), count in Counter(equal).items():
        if show_pairs or answer != gold:
            print(f"    {answer!r} for {gold!r}" + (f" x {count}" if count > 1 else ""))


def report(what: str, problems: list, texts: list[str], golds: list[str], think_end: str | None, workers) -> None:
    started = time.perf_counter()
    graded = grade_all([(text, gold, "stop") for text, gold in zip(texts, golds, strict=True)], think_end, workers)
    right = sum(grade.correct for grade in graded)
    print(f"  {what}: {right} of {len(golds)} correct, {time.perf_counter() - started:.1f} s")
    for row, grade in zip(problems, graded, strict=True):
        if not grade.correct:
            print(f"    line {row['line']}: {grade.answer!r} for {row['gold']!r}")


def compare(path: Path, problems: Path, tokenizer: str, workers: int | None) -> None:
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    decoder = AutoTokenizer.from_pretrained(tokenizer)
    golds = {row["id"]: row["gold"] for row in read(problems)}
    rows = pq.read_table(path).to_pylist()
    texts = decoder.batch_decode([row["output_ids"] for row in rows], skip_special_tokens=True)
    started = time.perf_counter()
    graded = grade_all(
        [(text, golds[row["unique_id"]], row["finish_reason"]) for text, row in zip(texts, rows, strict=True)],
        None,
        workers,
    )
    seconds = time.perf_counter() - started
    table = Counter((bool(row["correct"]), grade.correct) for row, grade in zip(rows, graded, strict=True))
    print(f"{path.name}: {len(rows):,} rollouts in {seconds:.1f} s")
    print(f"  agree: {table[True, True]} correct, {table[False, False]} wrong")
    print(f"  only the column says correct: {table[True, False]}; only the grader: {table[False, True]}")
    for row, grade, text in zip(rows, graded, texts, strict=True):
        if bool(row["correct"]) != grade.correct:
            end = text[-160:].replace("\n", " ") if grade.answer is None or "boxed" not in text else ""
            print(
                f"    {row['unique_id']} rollout {row['rollout']} ({row['finish_reason']}): grader {grade.correct}, "
                f"answer {grade.answer!r}, gold {golds[row['unique_id']]!r} {end!r}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="+", type=Path)
    parser.add_argument("--rollouts", type=Path)
    parser.add_argument("--tokenizer", help="the folder of the tokenizer that wrote the rollouts")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--pairs", action="store_true", help="print every shifted pair that grades as correct")
    options = parser.parse_args()
    if options.rollouts:
        compare(options.rollouts, options.problems[0], options.tokenizer, options.workers)
        return
    for path in options.problems:
        measure(path, options.workers, options.pairs)


if __name__ == "__main__":
    main()
