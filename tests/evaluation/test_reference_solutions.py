"""The way from a text to its score, on whole benchmarks: recorded reference solutions, and the same shifted by one."""

from pathlib import Path

import pytest
from command_line import config_of
from evaluation_fixtures import ReplayEngine, make_loaded, make_template

from ssgr.cell import fill
from ssgr.evaluation.accuracy import evaluate
from ssgr.evaluation.files import load_evaluation_problems
from ssgr.traces.store import TraceStore

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "file", "count"), [("math500", "math500.jsonl", 500), ("gsm8k", "gsm8k_test.jsonl", 1319)]
)
def test_reference_solutions_score_one_and_their_neighbours_next_to_nothing(name, file, count, tmp_path):
    if not (SHARED / file).is_file():
        pytest.skip(f"no {file} beside the checkout")
    whole = config_of(f"evaluation={name}", f"evaluation.path={SHARED / file}")
    fill(whole)
    config, template = whole.evaluation, make_template()
    problems = load_evaluation_problems(config)
    rows = [{"problem": problem.question} for problem in problems]
    texts = [f"{problem.solution}\n</think>\n\n\\boxed{{{problem.answer}}}" for problem in problems]
    found = {}
    for shift in (0, 1):
        engine = ReplayEngine(template, rows, lambda number, _, shift=shift: (texts[number - shift], "stop"))
        engine.batch_size = 512
        store = TraceStore.open(tmp_path / str(shift), {})
        made = evaluate(engine, make_loaded(template), template, config, repeats=1, limit=None, store=store)
        found[shift] = made.metrics
        assert (made.metrics[f"{name}/problems"], made.metrics[f"{name}/truncated"]) == (count, 0.0)
    assert found[0][f"{name}/accuracy"] == 1.0
    assert found[1][f"{name}/accuracy"] <= 0.02
