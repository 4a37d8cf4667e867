"""A few problems, and what every arm answered to them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.arms import Data
from analysis.figures.priced import Priced, every_arm
from analysis.html_report.texts import NoText, asked_problems, completions
from analysis.load import StoredCell
from ssgr.errors import UserError
from ssgr.traces.problems import Problem

PROBLEMS = 6  # of each model and task
HEAD, TAIL = 3000, 1500  # characters of a long completion that are shown


@dataclass(frozen=True)
class Answer:
    """What one arm wrote: its first seed's first completion, and how many of the `counted` ones are right."""

    arm: str
    right: int
    counted: int
    is_right: bool
    answer: str | None
    tokens: int
    finish: str
    text: str | None
    about_text: str  # why there is none, or what was left out of it


@dataclass(frozen=True)
class Answered:
    """A problem of a model and task, with what it was answered; `problem` is None where its text is not at hand."""

    where: str
    problem_id: str
    problem: Problem | None
    told: str  # how many arms had it right
    answers: list[Answer]
    no_text: str  # why no pruned model's completion is shown, where that is one reason for all


def problems(data: Data, cells: Sequence[StoredCell]) -> list[Answered]:
    """Of each model and task the problems on which arms (the dense model among them) disagree most; ties by id."""
    try:
        priced, _ = every_arm(data)
    except UserError:
        return []
    stored, found = {(cell.study, cell.cell): cell for cell in cells}, []
    for row in dict.fromkeys(one.row for one in priced):
        some = [one for one in priced if one.row == row]
        found += problems_of(row, some, data, stored)
    return found


def problems_of(row: str, priced: list[Priced], data: Data, stored: dict) -> list[Answered]:
    run, chosen = priced[0].run, disagreements(priced)[:PROBLEMS]
    asked = asked_problems(json.loads(run["config"]).get("evaluation", {}), run["task"])
    by_arm = [answers_of(one, chosen, data, stored) for one in priced]
    dense = dense_answers(priced, chosen, data)
    found = []
    for problem_id in chosen:
        pruned = [answers[problem_id] for answers in by_arm if problem_id in answers]
        told = f"{sum(answer.is_right for answer in pruned)} of {len(pruned)} arms right"
        reasons = {answer.about_text if answer.text is None else "" for answer in pruned}
        answers = [dense[problem_id], *pruned] if problem_id in dense else pruned
        no_text = reasons.pop() if len(reasons) == 1 else ""
        found.append(Answered(row, problem_id, asked.get(problem_id), told, answers, no_text))
    return found


def disagreements(priced: list[Priced]) -> list[str]:
    """The ids of the problems that every arm has, by the spread of the arms' accuracies."""
    rates = {step: pd.Series(one.arm.accuracy.mean(0), one.arms.problems) for step, one in enumerate(priced)}
    dense = next((one.arms for one in priced if one.arms.dense.accuracy is not None), None)
    if dense is not None:
        rates["dense"] = pd.Series(dense.dense.accuracy, dense.problems)
    spread = pd.DataFrame(rates).dropna().std(axis=1, ddof=0).rename_axis("problem_id").reset_index(name="spread")
    return spread.sort_values(["spread", "problem_id"], ascending=[False, True])["problem_id"].tolist()


def answers_of(one: Priced, chosen: list[str], data: Data, stored: dict) -> dict[str, Answer]:
    run, samples = one.run, data.only(one.arm.runs).samples
    samples = samples[(samples["task"] == run["task"]) & samples["problem_id"].isin(chosen)]
    is_first = (samples["study"] == run["study"]) & (samples["cell"] == run["cell"]) & (samples["repeat"] == 0)
    try:
        texts, why = completions(stored[run["study"], run["cell"]], run["task"], chosen), ""
    except NoText as error:
        texts, why = {}, str(error)
    seed = f", seed {run['seed']:.0f}" if pd.notna(run["seed"]) else ""
    found = {}
    for _, sample in samples[is_first].iterrows():
        every = samples.loc[samples["problem_id"] == sample["problem_id"], "correct"]
        text, about = clipped(texts.get(sample["problem_id"]))
        found[sample["problem_id"]] = Answer(
            f"{one.name}{seed}",
            int(every.sum()),
            len(every),
            bool(sample["correct"]),
            sample["answer"],
            int(sample["tokens"]),
            sample["finish_reason"],
            text,
            about or why,
        )
    return found


def dense_answers(priced: list[Priced], chosen: list[str], data: Data) -> dict[str, Answer]:
    """From the divergence table, which holds one dense sample of each problem but not its text."""
    run, table = priced[0].run, data.only(pd.concat([one.arm.runs for one in priced])).divergence
    table = table[(table["task"] == run["task"]) & table["problem_id"].isin(chosen)].drop_duplicates("problem_id")
    repeats = priced[0].arms.dense.repeats
    found = {}
    for _, sample in table.iterrows():
        found[sample["problem_id"]] = Answer(
            "dense",
            round(sample["pass_rate"] * repeats),
            repeats,
            bool(sample["correct"]),
            None,
            int(sample["tokens"]),
            sample["finish_reason"],
            None,
            "a run holds no text of the dense model",
        )
    return found


def clipped(text: str | None) -> tuple[str | None, str]:
    """Beginning and end of a long text, and how much is missing between them."""
    if text is None or len(text) <= HEAD + TAIL:
        return text, ""
    left_out = f"{len(text) - HEAD - TAIL:,} of {len(text):,} characters are left out"
    return f"{text[:HEAD]}\n\n[… {left_out} …]\n\n{text[-TAIL:]}", left_out
