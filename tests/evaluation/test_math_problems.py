"""The Python side of the YAML tasks, as lm-eval calls it."""

import pyarrow as pa
import pyarrow.parquet as pq
from evaluation_fixtures import make_config, make_loaded, make_template, oracle

from ssgr.evaluation.accuracy import evaluate
from ssgr.evaluation.tasks.math_problems import keep_all, score
from ssgr.traces.store import TraceStore


def test_every_repeat_is_kept_and_graded():
    responses = [["\\boxed{4}", "\\boxed{5}", "so 4", ""]]
    (kept,) = keep_all(responses, [{}])
    assert score({"answer": "4"}, [kept]) == {"accuracy": 0.5}


def test_tiny_math_reads_the_bundled_file(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.parquet"
    monkeypatch.setattr("ssgr.evaluation.files.BUNDLED_PROBLEMS", path)
    columns = {"problem_id": ["a", "b"], "question": ["1+1?", "2+2?"], "answer": ["2", "4"], "level": [1, 3]}
    pq.write_table(pa.table(columns), path)
    template = make_template()
    rows = [{"problem": "1+1?", "gold": "2"}, {"problem": "2+2?", "gold": "4"}]
    config = make_config(None, name="tiny_math")
    store = TraceStore.open(tmp_path / "store", {})
    engine = oracle(template, rows)
    result = evaluate(engine, make_loaded(template), template, config, repeats=2, limit=None, store=store)
    assert (result.metrics["tiny_math/accuracy"], result.metrics["tiny_math/problems"]) == (1.0, 2)
