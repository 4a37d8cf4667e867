"""A cell's name and hash: what enters, what does not, and the same cell however it was asked for."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import config_of

from ssgr.bundled.problems import draw_problems
from ssgr.cell import describe
from ssgr.errors import UserError
from ssgr.models.files import BUNDLED_MODEL


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path_factory.getbasetemp() / "cell-cache"))


def name(*overrides):
    return describe(config_of(*overrides)).name


def test_the_default_cell_is_readable():
    assert name().startswith("tiny_reasoner-self_generated-sparsegpt-s50-seed0-")
    labels = name("difficulty=hard", "length=moderate", "rollouts.k=8", "sparsity=n2m4", "seed=3", "pruner=wanda")
    assert labels.startswith("tiny_reasoner-self_generated-hard-moderate-wanda-n2m4-seed3-")


def test_a_listing_of_folders_tells_unusual_cells_apart():
    unusual = name("experiment=rac", "calibration.tokens=4096", "calibration.token_weights=decode")
    assert unusual.startswith("tiny_reasoner-self_generated-4096tokens-any-decode_weights-sparsegpt-s50-seed0-")
    assert "-dense_propagation-exclude_sinks-wanda-" in name(
        "pruner=wanda", "pruner.propagation=dense", "pruner.sinks=exclude"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("runs_dir=elsewhere",),
        ("cache_dir=other",),
        ("tracking=disabled",),
        ("tracking.project=mine",),
        ("study=grid",),
        ("overwrite=true",),
        ("save_checkpoint=true",),
        ("model.offload=true",),
        ("dry_run=true",),
        ("limit=300",),  # what null means here
        ("calibration.tokens=16384", "rollouts.temperature=1.0", "evaluation.max_new_tokens=512"),
        ("sparsity=s40", "sparsity.value=0.5"),
        ("difficulty=hard", "difficulty.pass_rate=null"),
        ("rollouts=study", "rollouts.problems=128", "rollouts.k=2"),
        ("experiment=rac", "selection.correctness=correct"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_does_not_change_a_result_does_not_change_the_hash(overrides):
    assert describe(config_of(*overrides)).hash == describe(config_of()).hash


def test_a_copy_of_the_model_elsewhere_is_the_same_model(tmp_path):
    shutil.copytree(BUNDLED_MODEL, tmp_path / "copy")
    same = ["model=hub", f"model.path={tmp_path}/copy", "model.think_end='</think>'", "limit=300"]
    same += ["calibration.tokens=16384", "calibration.max_seq_len=512", "evaluation.max_new_tokens=512"]
    same += ["rollouts.temperature=1", "rollouts.top_p=1", "rollouts.max_new_tokens=512"]
    assert describe(config_of(*same)).hash == describe(config_of()).hash


def test_every_value_that_can_change_a_result_changes_the_hash():
    changes = [
        (),
        ("seed=1",),
        ("limit=8",),
        ("pruner=wanda",),
        ("pruner=magnitude",),
        ("pruner=none",),
        ("pruner.sinks=undamped",),
        ("pruner.damping=0.1",),
        ("pruner.damping_basis=per_channel",),
        ("pruner.propagation=dense",),
        ("sparsity=s40",),
        ("sparsity=n2m4",),
        ("sparsity=n4m8",),
        ("allocation=owl",),
        ("allocation=owl", "allocation.outlier_multiple=3"),
        ("allocation=owl", "allocation.spread=0.05"),
        ("allocation=alphapruning",),
        ("allocation=alphapruning", "allocation.relative_spread=0.2"),
        ("calibration=general_text",),
        ("calibration=prompts_only",),
        ("calibration.tokens=1000",),
        ("calibration.max_seq_len=100",),
        ("calibration.token_weights=decode",),
        ("difficulty=easy",),
        ("length=short",),
        ("length=short", "length.within=difficulty"),
        ("selection.correctness=any",),
        ("selection.max_traces_per_problem=2",),
        ("rollouts.k=3",),
        ("rollouts.problems=64",),
        ("rollouts.seed=1",),
        ("rollouts.temperature=0.9",),
        ("rollouts=bundled", "rollouts.problems=128", "rollouts.k=2"),
        ("problems.instruction=Think.",),
        ("evaluation.repeats=2",),
        ("evaluation.seed=1",),
        ("evaluation.temperature=0",),
        ("model.dtype=float32",),
    ]
    hashes = {change: describe(config_of(*change)).hash for change in changes}
    assert len(set(hashes.values())) == len(changes)


def test_the_dense_cell_is_one_however_it_is_asked_for():
    dense = name("pruner=none")
    assert dense.startswith("tiny_reasoner-dense-tiny_math-")
    for overrides in (
        ("sparsity=dense",),
        ("sparsity.value=0",),
        ("sparsity.value=0.0", "pruner=wanda"),
        ("pruner=none", "sparsity=n2m4"),
        ("pruner=none", "calibration=general_text", "seed=7", "rollouts=study"),
        ("pruner=none", "allocation=owl"),
        ("sparsity=dense", "allocation=alphapruning"),
        ("pruner=none", "allocation=owl", "sparsity=n2m4"),
    ):
        assert name(*overrides) == dense
    assert name("pruner=none", "evaluation.seed=1") != dense


def test_magnitude_forgets_what_it_does_not_read():
    plain = name("pruner=magnitude")
    assert "seed" not in plain and "self_generated" not in plain
    for change in ("calibration=general_text", "seed=5", "rollouts.k=4", "length=short", "selection.correctness=any"):
        assert name("pruner=magnitude", change) == plain
    assert name("pruner=magnitude", "pruner.propagation=dense") == plain
    assert name("pruner=magnitude", "sparsity=s40") != plain
    measured = name("pruner=magnitude", "pruner.measure_error=true")
    assert measured != name("pruner=magnitude", "pruner.measure_error=true", "seed=1")


@pytest.mark.parametrize(("allocation", "reads"), [("uniform", False), ("alphapruning", False), ("owl", True)])
def test_magnitude_keeps_what_its_allocation_reads(allocation, reads):
    asked = ("pruner=magnitude", f"allocation={allocation}")
    plain = name(*asked)
    assert ("self_generated" in plain, "seed0" in plain) == (reads, reads)
    assert ("alphapruning-s50" in plain, "owl-s50" in plain) == (allocation == "alphapruning", allocation == "owl")
    for change in (
        "calibration=general_text",
        "seed=5",
        "rollouts.k=4",
        "problems.instruction=Think.",
        "difficulty=easy",
        "length=short",
        "selection.correctness=any",
    ):
        changes = reads or change.startswith("problems")  # the evaluation's prompts have the instruction too
        assert (name(*asked, change) != plain) == changes, change
    assert name(*asked, "pruner.propagation=dense") == plain, "it is the dense model that is read"
    assert name(*asked, "pruner.measure_error=true", "pruner.propagation=dense") != plain
    assert describe(config_of(*asked)).reads_calibration == reads


@pytest.mark.parametrize("allocation", ["owl", "alphapruning"])
def test_patterns_take_no_allocation_but_uniform(allocation):
    with pytest.raises(UserError, match=f"^allocation={allocation} with sparsity=2:4: .*allocation=uniform") as raised:
        describe(config_of(f"allocation={allocation}", "sparsity=n2m4"))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"allocation\.\w+=9"):
        option = {"owl": "spread", "alphapruning": "relative_spread"}[allocation]
        describe(config_of(f"allocation={allocation}", f"allocation.{option}=9"))


@pytest.mark.parametrize(
    ("asked", "choose"),
    {
        ("allocation.name=owl",): "allocation=owl",
        ("allocation=owl", "allocation.name=uniform"): "allocation=uniform",
        ("pruner.name=wanda",): "pruner=wanda",
        ("calibration.name=c4",): "calibration=c4",
        ("engine.name=vllm",): "engine=vllm",
    }.items(),
    ids=str,
)
def test_an_option_is_chosen_with_its_schema(asked, choose):
    with pytest.raises(UserError, match=f"^{asked[-1]}: choose it by {choose}, which sets its options too$"):
        config_of(*asked)


def test_sources_enter_only_with_what_they_read():
    text = name("calibration=general_text")
    assert name("calibration=general_text", "rollouts.k=4") == text
    assert name("calibration=general_text", "seed=1") != text
    prompts = name("calibration=prompts_only")
    assert name("calibration=prompts_only", "rollouts=study") == prompts


def test_a_limit_beyond_the_problems_is_their_number():
    assert name("limit=100000") == name("limit=1000") != name("limit=999")
    texts = ("limit=100000", "evaluation.also=[{name: perplexity, path: README.md}]")
    Path("README.md").write_text("one two three")
    assert describe(config_of(*texts)).config.limit == 100_000, "windows of a text are limited too"


def test_files_enter_by_their_contents_not_by_their_paths(tmp_path):
    rows = [{"question": problem.question, "answer": problem.answer} for problem in draw_problems(5, 3, "x")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "folder").mkdir()
    one, same, other = tmp_path / "one.jsonl", tmp_path / "folder" / "same.jsonl", tmp_path / "other.jsonl"
    for path, content in ((one, text), (same, text), (other, text.replace("7", "8"))):
        path.write_text(content)

    def evaluated(path: Path):
        return name("evaluation=jsonl", f"evaluation.path={path}")

    def calibrated(path: Path):
        return name("problems=jsonl", f"problems.path={path}")

    for named in (evaluated, calibrated):
        assert named(one) == named(same) != named(other)
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, model)
    before = name("model=hub", f"model.path={model}")
    moved = tmp_path / "folder" / "model"
    shutil.copytree(BUNDLED_MODEL, moved)
    assert name("model=hub", f"model.path={moved}") == before
    (moved / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert name("model=hub", f"model.path={moved}") != before
