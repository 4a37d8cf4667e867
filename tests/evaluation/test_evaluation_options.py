"""Several evaluations of one model, each with its own options: what is composed, refused and hashed."""

import json

import pytest
from command_line import config_of
from evaluation_fixtures import write_problems

from ssgr.cell import describe
from ssgr.config import DivergenceConfig, LmEvalConfig, PerplexityConfig, TaskConfig
from ssgr.errors import UserError


@pytest.fixture
def gsm8k(tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": f"Add.\n#### {n + 1}"} for n in range(3)]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def also(*entries):
    return f"evaluation.also=[{','.join(entries)}]"


def test_each_has_the_options_of_its_own_file(gsm8k):
    config = config_of("evaluation.repeats=3", also(f"{{name: gsm8k, path: {gsm8k}, dense_repeats: 2}}", "perplexity"))
    main, task, text = config.evaluations
    assert (main.name, main.repeats) == ("tiny_math", 3)
    assert isinstance(task, TaskConfig) and (task.name, task.repeats, task.dense_repeats) == ("gsm8k", 1, 2)
    assert (task.path, task.question_field, task.divergence) == (str(gsm8k), "question", False)
    assert isinstance(text, PerplexityConfig) and text.max_seq_len == 2048
    cell = describe(config_of(also(f"{{name: gsm8k, path: {gsm8k}}}")))
    assert cell.config.evaluation.also[0].max_new_tokens == 512, "nulls are filled"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("maths", r"evaluation.also: no evaluation is named 'maths'; choices: aime24, .*, tiny_math"),
        ("7", r"no evaluation is named 7; choices"),
        ("{path: x}", r"no evaluation is named None"),
        ("{name: gsm8k, repeets: 2}", r"evaluation.also: gsm8k: there is no option repeets; did you mean repeats"),
        ("{name: gsm8k, repeats: many}", r"evaluation.also: gsm8k: repeats: Value 'many'"),
        ("{name: gsm8k, also: [perplexity]}", r"evaluation.also: gsm8k: also holds no also"),
        ("divergence", r"evaluation.also: divergence: the divergence is measured on the main evaluation"),
        ("jsonl", r"evaluation.also: jsonl: path is missing: it must be set"),
        ("tiny_math", r"tiny_math stands there twice"),
        ("{name: lm_eval, tasks: [arc_easy, tiny_math]}", r"tiny_math stands there twice"),
        ("{name: gsm8k, path: none.jsonl}", r"{name: gsm8k, option: value}: evaluation.path=none.jsonl: no such file"),
        ("{name: perplexity, path: none.txt}", r"evaluation.path=none.txt: no such file"),
        ("{name: lm_eval, tasks: []}", r"tasks is empty"),
        ("{name: lm_eval, tasks: [x], include_path: no/where}", r"include_path=no/where: no such folder"),
    ],
)
def test_what_cannot_be_is_one_line(entry, message):
    with pytest.raises(UserError, match=message) as caught:
        describe(config_of(also(entry)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.repeats=0"], "evaluation.repeats=0: must be at least 1"),
        (["evaluation.top_p=0"], "evaluation.top_p=0.0: must be above 0"),
        (["evaluation.temperature=0", "evaluation.repeats=4"], "evaluation.repeats=4: completions of one prompt would"),
        (["rollouts.temperature=0"], "rollouts.k=2: completions of one prompt would all be the same; use rollouts.k=1"),
        (
            ["evaluation=divergence", "evaluation.task=maths"],
            "evaluation.task: no task is named 'maths'; choices: aime24",
        ),
        (
            ["evaluation=divergence", "evaluation.task=tiny_math", also("tiny_math")],
            "evaluation=divergence with evaluation.also: tiny_math stands there twice",
        ),
        (["evaluation=divergence", "evaluation.task=perplexity"], "no task is named 'perplexity'"),
        (["evaluation=divergence", "evaluation.task=jsonl"], "evaluation.path is missing"),
        (
            ["evaluation=divergence", "evaluation.task=tiny_math", "evaluation.divergence=false"],
            "evaluation=divergence measures nothing else",
        ),
        (["evaluation=divergence", "evaluation.task=tiny_math", "evaluation.dense_repeats=0"], "dense_repeats=0"),
        (
            ["evaluation=perplexity", "evaluation.path=t.txt", "evaluation.divergence=true"],
            "evaluation=perplexity has no samples to measure the divergence on",
        ),
        (["evaluation=perplexity", "evaluation.path=t.txt", "evaluation.max_seq_len=1"], "max_seq_len=1"),
        (["evaluation=lm_eval", "evaluation.tasks=[x]", "evaluation.num_fewshot=-1"], "num_fewshot=-1"),
    ],
)
def test_values_that_make_no_sense_are_refused(overrides, message):
    with pytest.raises(UserError) as caught:
        describe(config_of(*overrides))
    assert message in str(caught.value)


@pytest.mark.parametrize("task", [("evaluation=tiny_math",), ("evaluation=divergence", "evaluation.task=tiny_math")])
def test_greedy_evaluations_have_one_sample_of_the_dense_model(task):
    greedy = describe(config_of(*task, "evaluation.temperature=0"))
    assert greedy.config.evaluation.problem_task.dense_repeats == 1
    assert greedy.hash == describe(config_of(*task, "evaluation.temperature=0", "evaluation.dense_repeats=1")).hash


def test_the_divergence_takes_what_it_leaves_open_from_its_task(gsm8k):
    config = config_of("evaluation=divergence", "evaluation.task=gsm8k", f"evaluation.path={gsm8k}").evaluation
    assert isinstance(config, DivergenceConfig)
    task = config.problem_task
    plain = config_of("evaluation=gsm8k", f"evaluation.path={gsm8k}").evaluation
    assert task == plain
    changed = config_of(
        "evaluation=divergence",
        "evaluation.task=gsm8k",
        f"evaluation.path={gsm8k}",
        "evaluation.dense_repeats=3",
        "evaluation.max_new_tokens=9",
    ).evaluation.problem_task
    assert (changed.dense_repeats, changed.max_new_tokens, changed.dataset) == (3, 9, plain.dataset)


def test_every_evaluation_and_its_options_enter_the_hash(tmp_path, gsm8k):
    text, other = tmp_path / "t.txt", tmp_path / "u.txt"
    text.write_text("one two three"), other.write_text("one two four")
    write_problems(tmp_path / "p.jsonl", 2)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"one": "a b c", "two": "d e f"}')
    perplexity = f"{{name: perplexity, path: {text}}}"
    changes = [
        (),
        (also(perplexity),),
        (also(f"{{name: perplexity, path: {other}}}"),),
        (also(f"{{name: perplexity, path: {text}, max_seq_len: 64}}"),),
        (also(f"{{name: gsm8k, path: {gsm8k}}}"),),
        (also(f"{{name: gsm8k, path: {gsm8k}, repeats: 2}}"),),
        (also(f"{{name: gsm8k, path: {gsm8k}, instruction: Think.}}"),),
        (also(f"{{name: gsm8k, path: {gsm8k}}}", perplexity),),
        ("evaluation=divergence", "evaluation.task=tiny_math"),
        ("evaluation=divergence", "evaluation.task=gsm8k", f"evaluation.path={gsm8k}"),
        ("evaluation=perplexity", f"evaluation.path={text}"),
        ("evaluation=perplexity", f"evaluation.path={rows}", "evaluation.text_field=one"),
        ("evaluation=perplexity", f"evaluation.path={rows}", "evaluation.text_field=two"),
        ("evaluation=lm_eval", "evaluation.tasks=[arc_easy]"),
        ("evaluation=lm_eval", "evaluation.tasks=[arc_easy]", "evaluation.num_fewshot=1"),
        ("evaluation=lm_eval", "evaluation.tasks=[arc_easy]", f"evaluation.include_path={tmp_path}"),
    ]
    hashes = {change: describe(config_of(*change)).hash for change in changes}
    assert len(set(hashes.values())) == len(changes)
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(text.read_bytes())
    assert describe(config_of(also(f"{{name: perplexity, path: {moved}}}"))).hash == hashes[changes[1]]
    turned = describe(config_of(also(perplexity, f"{{name: gsm8k, path: {gsm8k}}}")))
    assert turned.hash == hashes[changes[7]], "their order changes nothing"


def test_what_lm_eval_may_generate_is_capped_by_the_models_value():
    config = describe(config_of("evaluation=lm_eval", "evaluation.tasks=[arc_easy]")).config.evaluation
    assert isinstance(config, LmEvalConfig) and config.max_new_tokens == 512
