"""What the package ships: the problem sets, the model, its rollouts and the card that describes them."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import ssgr
from ssgr.bundled import families, ship, train
from ssgr.bundled import problems as generator
from ssgr.calibration.general_text import TEXT
from ssgr.evaluation.accuracy import samples_table, summarise
from ssgr.models.files import BUNDLED_MODEL
from ssgr.models.load import read_tokenizer
from ssgr.traces.grading import grade
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore

HERE = Path(ssgr.__file__).parent / "bundled"
CARD = json.loads((HERE / "card.json").read_text())
SETS = {
    "calibration": (generator.CALIBRATION_SEED, generator.CALIBRATION_PROBLEMS, "c"),
    "evaluation": (generator.EVALUATION_SEED, generator.EVALUATION_PROBLEMS, "e"),
}


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(BUNDLED_MODEL)


def shipped(name):
    return [Problem(**row) for row in pq.read_table(HERE / f"{name}.parquet").to_pylist()]


def programs(seed, count):
    rng = random.Random(seed)
    return [generator.draw_program(rng, generator.SHIPPED_LEVELS) for _ in range(count)]


@pytest.mark.parametrize("name", SETS)
def test_the_problem_sets_come_from_their_seeds(name):
    assert shipped(name) == generator.draw_problems(*SETS[name])


def test_the_problem_sets_are_disjoint_and_complete():
    calibration, evaluation = shipped("calibration"), shipped("evaluation")
    assert (len(calibration), len(evaluation)) == (4000, 1000)
    questions = {problem.question for problem in calibration + evaluation}
    ids = {problem.problem_id for problem in calibration + evaluation}
    assert len(questions) == len(ids) == 5000
    assert all(problem.answer and problem.solution for problem in calibration + evaluation)
    assert {problem.family for problem in evaluation} == set(families.FAMILIES)
    for folder, problems in (("rollouts", calibration), ("dense_samples", evaluation)):
        assert TraceStore.open(HERE / folder).problems == problems


def test_a_wrong_look_up_changes_the_answer():
    unchanged = {family: [0, 0] for family in families.FAMILIES}
    for program in programs(11, 1500):
        right = program.right_values()
        for index, value in enumerate(right):
            wrong = [*right[:index], (value + 1 + index) % 10, *right[index + 1 :]]
            unchanged[program.family][0] += program.solve(wrong)[1] == program.solve(right)[1]
            unchanged[program.family][1] += 1
    assert all(total > 300 for _, total in unchanged.values())
    shares = {family: same / total for family, (same, total) in unchanged.items()}
    # days count modulo 7, so that some wrong digits fall on the right weekday
    assert shares.pop("calendar") < 0.15
    assert all(share == 0 for share in shares.values()), shares


def test_a_program_is_its_knobs():
    """The level is the number of hard look-ups, and the solution reads every look-up as it was told to."""
    for program in programs(12, 300):
        hard = [operator for operator, _ in program.lookups if operator in families.HARD_OPERATORS]
        assert len(hard) == program.level and len(program.lookups) == families.LOOKUPS
        values = program.right_values()
        text = "\n".join(line.text for line in program.solve(values)[0])
        for (operator, digit), value in zip(program.lookups, values, strict=True):
            assert f"{operator} {digit}" in program.question
            assert f"{operator} {digit} = {value}" in text


def test_noise_sits_on_hard_look_ups_alone():
    rng = random.Random(3)
    hard = wrong = 0
    for program in programs(13, 2000):
        pairs = zip(program.lookups, program.right_values(), program.noisy_values(rng), strict=True)
        for (operator, _), right, noisy in pairs:
            if operator in families.EASY_OPERATORS:
                assert noisy == right
            else:
                hard, wrong = hard + 1, wrong + (noisy != right)
    assert abs(wrong / hard - generator.HARD_NOISE) < 4 * 0.5 / hard**0.5


def test_checks_are_true():
    """Dummy checks lengthen a solution without saying anything that is false."""
    verified = 0
    for program in programs(14, 200):
        lines, answer = program.solve(program.right_values())
        assert answer and all(line.check.startswith("Check: ") and line.check.endswith(" Good.") for line in lines)
        for line in lines:
            claim = line.check.removeprefix("Check: ").removesuffix(". Good.").replace("/", "//")
            left, equals, right = claim.partition(" = ")
            if equals and set(left) <= set("0123456789+-*/ "):
                verified += 1
                assert eval(left) == int(right), line  # the text is digits and operators alone
    assert verified > 500


def test_training_prompts_are_what_the_chat_template_makes(tokenizer):
    template = PromptTemplate(tokenizer, train.INSTRUCTION, "</think>")
    for problem in shipped("evaluation")[:50]:
        text = train.prompt_text(problem.question)
        assert template.prompt_text(problem.question) == text
        assert template.prompt_ids(problem.question) == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert text.endswith("<think>\n") and text.count("<|bos|>") == 1
    assert (HERE / "chat_template.jinja").read_text() == (BUNDLED_MODEL / "chat_template.jinja").read_text()


def test_a_training_completion_is_graded_as_correct(tokenizer):
    problems = shipped("calibration")[:30]
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        text = train.completion_text(problem.solution, problem.answer).removesuffix("<|eos|>")
        assert grade(text, problem.answer, "</think>", "stop").correct
        assert grade(text, other.answer, "</think>", "stop").correct == (problem.answer == other.answer)


def test_the_tokenizer_round_trips(tokenizer):
    assert len(tokenizer) == train.VOCABULARY
    texts = [problem.solution for problem in shipped("evaluation")[:50]]
    texts += [TEXT.read_text(encoding="utf-8")[:20_000], "naïve Ω 漢字 🙂\t\n  x", "12345 </think> <think>"]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    digits = tokenizer("90210", add_special_tokens=False)["input_ids"]
    assert len(digits) == 5, "every digit stands alone"


def test_the_model_is_small_and_bfloat16():
    path = BUNDLED_MODEL / "model.safetensors"
    assert path.stat().st_size <= 10e6
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}
    assert not list(HERE.rglob("*.bin")) + list(HERE.rglob("*.pt")) + list(HERE.rglob("*.pkl"))


def test_the_stores_are_small():
    sizes = [path.stat().st_size for name in ("rollouts", "dense_samples") for path in (HERE / name).rglob("*")]
    assert sum(sizes) <= 5e6


@pytest.fixture(scope="module")
def store():
    held = TraceStore.open(HERE / "rollouts")
    return held.view(held.problems, 8)


def test_the_card_says_what_the_shipped_rollouts_hold(store):
    found = json.loads(json.dumps(ship.statistics(store), default=float))
    assert flat(found) == pytest.approx(flat(CARD["store"]))
    assert (found["problems"], found["k"], len(store.traces)) == (4000, 8, 32000)


def flat(tree, above=""):
    if not isinstance(tree, dict):
        return {above: tree}
    return {name: value for key, item in tree.items() for name, value in flat(item, f"{above}/{key}").items()}


def test_the_rollouts_are_graded_as_the_grader_grades(store, tokenizer):
    template = PromptTemplate(tokenizer, train.INSTRUCTION, "</think>")
    answers = {problem.problem_id: problem.answer for problem in store.problems}
    rows = store.traces.sample(200, random_state=0)
    for row, (prompt, output) in zip(rows.itertuples(), store.sequences(rows), strict=True):
        text = template.completion_text(output.tolist())
        assert grade(text, answers[row.problem_id], "</think>", row.finish_reason).correct == row.correct
        assert (len(prompt), len(output)) == (row.prompt_tokens, row.tokens)


def test_the_shipped_rollouts_can_carry_the_studies():
    """The ranges that a study of difficulty and length needs."""
    held = CARD["store"]
    assert 0.60 <= held["mean_pass_rate"] <= 0.78
    assert all(held["bins"][name] >= 0.12 for name in ("easy", "medium", "hard"))
    assert all(held["largest_family_share"][name] <= 0.30 for name in ("easy", "medium", "hard"))
    assert all(abs(value) < 0.15 for value in held["spearman_difficulty_length"].values())
    grid = held["grid_tokens_one_trace_per_problem"]
    assert all(tokens >= 16_000 for name in ("easy", "medium", "hard") for tokens in grid[name].values())
    assert held["truncated"] < 0.02


def test_the_card_says_what_the_shipped_dense_samples_hold():
    held = TraceStore.open(HERE / "dense_samples")
    metrics = summarise(samples_table(held.view(held.problems, 8), "tiny_math"), "tiny_math")
    card = {name: value for name, value in CARD["dense"].items() if name in metrics}
    assert card == pytest.approx(metrics)
    assert 0.75 <= card["tiny_math/accuracy"] <= 0.92 and card["tiny_math/truncated"] < 0.02
    assert (card["tiny_math/problems"], card["tiny_math/repeats"]) == (1000, 8)
