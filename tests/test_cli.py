"""What a user types wrongly: one line on standard error, exit status 2, nothing written, no traceback."""

import json
import shutil
from io import StringIO

import pytest
import torch
from command_line import FAST, QUICK, cells, files, ssgr, start
from safetensors.torch import load_file, save_file

from ssgr import __version__, composition, progress
from ssgr.cli import options_first
from ssgr.models.files import BUNDLED_MODEL

GOOD = '{"question": "What is 1 + 1?", "answer": "2"}\n'
PRUNERS, SOURCES = (
    ", ".join(sorted(path.stem for path in (composition.folder("conf") / group).glob("*.yaml")))
    for group in ("pruner", "calibration")
)
OPTIONS = {
    "pruner=wand": ["pruner/wand", PRUNERS],
    "calibration=c5": ["calibration/c5", SOURCES],
    "engine=tgi": ["engine/tgi", "hf"],
    "experiment=nothing": ["experiment/nothing", "generic, rac, ssgr"],
    "model=null": ["model", "not null"],
    "-cn nothing": ["'nothing'", "smoke"],
    "sedd=1": ["there is no option sedd", "did you mean seed"],
    "zzz=1": ["there is no option zzz", "calibration", "tracking"],
    "+zzz=1": ["there is no option zzz", "calibration", "tracking"],
    "+pruner.zzz=1": ["there is no option pruner.zzz", "damping"],
    "rollout.k=3": ["there is no option rollout", "rollouts"],
    "calibration=off_policy problems.decontaminate=true": ["problems.decontaminate=true", "calibration=off_policy"],
    "calibration.data_files=f": ["there is no option calibration.data_files", "a command of its own"],
    "pruner.dampning=0.1": ["there is no option pruner.dampning", "damping"],
    "pruner=wanda pruner.damping=0.1": ["pruner.damping", "measure_error, name, one_pass, propagation, sinks"],
    "evaluation.repeat=2": ["evaluation.repeat", "repeats"],
    "model.fallback.limt=3": ["model.fallback.limt", "limit"],
    "pruner.sinks=drop": ["pruner.sinks", "keep, undamped, exclude"],
    "selection.correctness=maybe": ["selection.correctness", "correct, incorrect, any"],
    "seed=abc": ["seed", "Integer"],
    "seed=-1": ["seed=-1", "at least 0 and below 2**53"],
    "seed=9007199254740992": ["seed=9007199254740992", "below 2**53"],
    "rollouts.seed=-1": ["rollouts.seed=-1", "at least 0"],
    "evaluation.seed=-1": ["evaluation.seed=-1", "at least 0"],
    "evaluation=lm_eval evaluation.tasks=[x] evaluation.seed=-1": ["evaluation.seed=-1", "at least 0"],
    "rollouts.k=2.5": ["rollouts.k", "Integer"],
    "overwrite=maybe": ["overwrite", "bool"],
    "study=null": ["study"],
    "word": ["'word'", "option=value"],
    "pruner=wanda,magnitude": ["pruner=wanda,magnitude", "-m"],
    "pruner.name=other": ["pruner.name=other", "an option is chosen by pruner=NAME"],
    "rollouts.name=bundled": ["rollouts.name=bundled", "choose it by rollouts=bundled"],
    "-m sparsity.name=s60,s70": ["sparsity.name=s60,s70", "an option is chosen by sparsity=NAME"],
    "~pruner": ["pruner is missing"],
    "model=hub": ["model.path is missing"],
    "evaluation=jsonl": ["evaluation.path is missing"],
    "problems=jsonl": ["problems.path is missing"],
    "evaluation=jsonl evaluation.path=none.jsonl": ["evaluation.path=none.jsonl", "no such file"],
    "evaluation=jsonl evaluation.path=broken.jsonl": ["broken.jsonl:2", "malformed JSON"],
    "evaluation=jsonl evaluation.path=unanswered.jsonl": ["unanswered.jsonl:3", "without an answer"],
    "evaluation=jsonl evaluation.path=good.jsonl evaluation.answer_field=gold": ["good.jsonl:1", "'gold'"],
    "problems=jsonl problems.path=none.jsonl": ["problems.path=none.jsonl", "no such file"],
    "problems=jsonl problems.path=broken.jsonl": ["broken.jsonl:2", "malformed JSON"],
    "problems=jsonl problems.path=unanswered.jsonl": ["unanswered.jsonl:3", "without an answer"],
    "sparsity.value=1": ["sparsity.value=1", "below 1"],
    "sparsity.value=-0.1": ["sparsity.value=-0.1", "at least 0"],
    "sparsity.value=null": ["sparsity.value"],
    "sparsity.n=2": ["sparsity.n", "sparsity.m"],
    "sparsity.n=2 sparsity.m=7": ["2:7", "sparsity.value=null"],
    "sparsity=n2m4 sparsity.n=4": ["sparsity.n=4", "0 < n < m"],
    "difficulty=hard rollouts.k=2": ["difficulty=hard", "rollouts.k=3"],
    "calibration=general_text difficulty=hard": ["difficulty=hard", "calibration=general_text", "self_generated"],
    "calibration=prompts_only length=short": ["length=short", "calibration=prompts_only"],
    "calibration=general_text rollouts.k=0": ["rollouts.k=0", "at least 1"],
    "calibration=general_text calibration.token_weights=decode": ["token_weights=decode", "all, per_trace"],
    "calibration.tokens=0": ["calibration.tokens=0"],
    "limit=0": ["limit=0"],
    "rollouts=bundled rollouts.k=9": ["rollouts=bundled", "8 rollouts"],
    "rollouts=bundled rollouts.temperature=0.5": ["rollouts=bundled", "temperature"],
    "rollouts=bundled model=qwen3_8b": ["rollouts=bundled is tiny_reasoner's, not qwen3_8b's"],
    "rollouts.temperature=-1": ["rollouts.temperature=-1"],
    "evaluation.top_p=0": ["evaluation.top_p=0"],
    "pruner.damping=-1": ["pruner.damping=-1"],
    "pruner.damping=0": ["pruner.damping=0"],
    "pruner.damping=inf": ["pruner.damping=inf", "at most 1000"],
    "pruner.damping=nan": ["pruner.damping=nan", "at most 1000"],
    "pruner.damping=1e300": ["pruner.damping=1e+300", "at most 1000"],
    "rollouts.temperature=nan": ["rollouts.temperature=nan", "finite"],
    "evaluation.temperature=inf": ["evaluation.temperature=inf", "finite"],
    "sparsity=n2m4 sparsity.value=nan": ["sparsity.value=nan", "2:4"],
    "pruner.block_size=0": ["pruner.block_size=0"],
    "pruner=wanda pruner.sinks=undamped": ["pruner.sinks=undamped", "pruner=wanda", "keep or exclude"],
    "pruner=ria pruner.sinks=undamped": ["pruner.sinks=undamped", "pruner=ria", "keep or exclude"],
    "pruner.damping_basis=median": ["pruner.damping_basis", "mean, per_channel"],
    "pruner=alps pruner.ridge=0": ["pruner.ridge=0", "above 0"],
    "pruner=alps pruner.ridge=1e300": ["pruner.ridge=1e+300", "at most 1000"],
    "pruner=ria pruner.activation_power=100": ["pruner.activation_power=100", "at most 4"],
    "pruner=ria pruner.activation_power=-1": ["pruner.activation_power=-1"],
    "study=../x": ["study='../x'", "folder name"],
    "study=a/b": ["study='a/b'", "folder name"],
    "-m study=../x seed=0,1": ["study='../x'", "folder name"],
    "device=gpu": ["device=gpu", "auto, cpu, cuda"],
    "runs_dir=. study=good.jsonl": ["study=good.jsonl", "written"],
    "-m runs_dir=. study=good.jsonl seed=0,1": ["study=good.jsonl", "written"],
    "runs_dir=good.jsonl/runs": ["runs_dir=good.jsonl/runs", "written"],
    "cache_dir=good.jsonl/cache": ["cache_dir=good.jsonl/cache", "written"],
    "model=hub model.path=./nowhere": ["nowhere", "no such folder"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with good and bad files, in which nothing may appear."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "good.jsonl").write_text(GOOD)
    (folder / "broken.jsonl").write_text(GOOD + '{"question": \n')
    (folder / "unanswered.jsonl").write_text(GOOD + "\n" + '{"question": "What is 2 + 2?"}\n')
    return folder


def refused(line, folder, expected):
    before = files(folder)
    done = ssgr(line, folder)
    assert done.status == 2
    assert len(done.lines) == 1 and done.err.startswith("ssgr: ") and not done.out
    for words in expected:
        assert words in done.err
    assert {name for name in files(folder) - before if not name.startswith("cache")} == set()


@pytest.mark.parametrize("line", OPTIONS)
def test_bad_input_is_refused_before_torch_is_needed(line, inputs):
    refused(line if line.startswith("-") else f"{line} dry_run=true", inputs, OPTIONS[line])


def model_copy(folder, name, *without):
    shutil.copytree(BUNDLED_MODEL, folder / name, ignore=shutil.ignore_patterns(*without))
    return folder / name


def test_a_model_folder_that_cannot_be_used(tmp_path):
    model_copy(tmp_path, "untokenised", "tokenizer*")
    model_copy(tmp_path, "untemplated", "chat_template*")
    model_copy(tmp_path, "unweighted", "*.safetensors")
    weights = model_copy(tmp_path, "poisoned") / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    expected = {
        "untokenised": "no tokenizer",
        "untemplated": "no chat template",
        "unweighted": "no safetensors",
        "poisoned": "model.layers.2.mlp.up_proj",
    }
    for name, words in expected.items():
        refused(f"model=hub model.path={name} limit=8", tmp_path, [words])


@pytest.mark.parametrize(
    ("line", "expected"),
    {
        "sparsity=n2m4 sparsity.m=7": ["2:7", "q_proj has 256 inputs"],
        "model.dtype=int8": ["model.dtype=int8", "bfloat16"],
        "calibration=prompts_only calibration.tokens=9000000": ["prompts_only", "9,000,000"],
        "calibration=reference_solutions calibration.tokens=9000000": ["reference_solutions", "9,000,000"],
        "calibration=general_text calibration.tokens=9000000": ["general_text", "9,000,000"],
        "rollouts=bundled problems.instruction=Go": ["rollouts=bundled", "template"],
        "evaluation=jsonl evaluation.path=long.jsonl calibration=general_text": ["tokens", "1024"],
    }.items(),
)
def test_bad_input_that_only_the_loaded_model_shows(line, expected, inputs):
    (inputs / "long.jsonl").write_text(json.dumps({"question": "7 " * 2000, "answer": "7"}) + "\n")
    refused(f"{line} tracking=disabled limit=8", inputs, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(inputs):
    refused("device=cuda", inputs, ["device=cuda", "no CUDA"])


def test_the_other_cells_of_a_sweep_still_run(inputs):
    paths = "evaluation.path=good.jsonl,broken.jsonl"
    done = ssgr(f"-m {FAST} evaluation=jsonl {paths} study=swept", inputs)
    assert done.status == 2
    assert "broken.jsonl:2" in done.err and "1 finished, 1 refused" in done.err and "Traceback" not in done.err
    (cell,) = cells(inputs, "swept")
    assert (cell / "result.json").is_file()
    shutil.rmtree(inputs / "runs")


def test_a_budget_that_the_store_cannot_fill_fails_the_cell_and_keeps_the_rollouts(tmp_path):
    line = f"{QUICK} rollouts=fresh rollouts.problems=8 rollouts.k=1 rollouts.max_new_tokens=8 calibration.tokens=9000"
    for _ in range(2):
        done = ssgr(line, tmp_path)
        (cell,) = cells(tmp_path)
        assert done.status == 1 and "Traceback" not in done.err and not done.out
        assert [text for text in done.lines if text.startswith("ssgr: ")] == done.lines[-1:]
        assert "needs 9,000" in done.lines[-1] and "log.txt" in done.lines[-1]
        failure = json.loads((cell / "failure.json").read_text())
        assert failure["stage"] == "calibration" and failure["error"] in done.lines[-1]
        assert "CellError" in (tmp_path / failure["log"]).read_text()
        assert not (cell / "result.json").exists()
        parts = list((tmp_path / "cache" / "traces").rglob("part-*.parquet"))
        assert len(parts) == 1
    # a smaller budget is another cell, which generates nothing
    stamp = parts[0].stat().st_mtime_ns
    assert (
        ssgr(
            f"{line} calibration.tokens=256 selection.correctness=any pruner=wanda evaluation.divergence=false",
            tmp_path,
        ).status
        == 0
    )
    assert parts[0].stat().st_mtime_ns == stamp and len(list(parts[0].parent.iterdir())) == 1


def test_a_bug_is_a_traceback_and_a_failed_cell_and_the_sweep_goes_on(tmp_path, monkeypatch):
    from ssgr import stages

    def broken(*_, **__):
        monkeypatch.undo()  # the second cell prunes as ever
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stages, "prune_with_others", broken)
    done = ssgr(f"-m {FAST} sparsity=s40,s50", tmp_path)
    assert done.status == 1
    assert "Traceback" in done.err and "pruning: a bug" in done.err and "1 failed, 1 finished" in done.err
    failed = [cell for cell in cells(tmp_path) if (cell / "failure.json").is_file()]
    finished = [cell for cell in cells(tmp_path) if (cell / "result.json").is_file()]
    assert len(failed) == len(finished) == 1
    failure = json.loads((failed[0] / "failure.json").read_text())
    assert (failure["stage"], failure["error"]) == ("pruning", "a bug")
    # the same command once more runs what failed, and the trace of the failure goes
    done = ssgr(f"-m {FAST} sparsity=s40,s50", tmp_path)
    assert done.status == 0 and "1 finished, 1 skipped" in done.err
    assert not [path for cell in cells(tmp_path) for path in cell.iterdir() if path.name in ("failure.json", "log.txt")]


def test_an_output_that_cannot_be_written_does_not_cost_the_result(tmp_path, monkeypatch):
    from ssgr import report

    def closed(*_):
        raise BrokenPipeError("closed")

    monkeypatch.setattr(report, "comparison", closed)
    done = ssgr(FAST, tmp_path)
    assert done.status == 0 and "closed" in done.err
    assert (cells(tmp_path)[0] / "result.json").is_file()


def test_a_study_whose_output_is_closed_or_full_runs_to_its_end(tmp_path, monkeypatch):
    class Full(StringIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    class Closed(StringIO):
        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

    for number, stream in enumerate((Full(), Closed())):
        monkeypatch.setattr(progress.Output, "file", property(lambda self, stream=stream: stream))
        done = ssgr(f"-m {FAST} sparsity=s40,s50 study=s{number}", tmp_path)
        assert done.status == 0 and "ssgr: 2 cells: 2 " in done.err and "could not be written" in done.err
        assert "Traceback" not in done.err and len(cells(tmp_path, f"s{number}")) == 2


def test_a_failure_leaves_the_result_of_another_process_alone(tmp_path, monkeypatch):
    from ssgr import stages

    assert ssgr(FAST, tmp_path).status == 0
    (cell,) = cells(tmp_path)
    before = (cell / "result.json").read_bytes()

    def broken(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(stages, "load", broken)
    done = ssgr(f"{FAST} overwrite=true", tmp_path)
    assert done.status == 1 and "out of memory" in done.err
    assert (cell / "result.json").read_bytes() == before and not (cell / "failure.json").exists()


def test_version_and_help_from_the_console_script(tmp_path):
    assert ssgr("--version", tmp_path).out == f"ssgr {__version__}\n"
    process = start("--help", tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "sparsegpt" in out and not err
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("seed=1 -m pruner=wanda,none", "-m seed=1 pruner=wanda,none"),
        ("-cn smoke study=x --config-dir a=b seed=1", "-cn smoke --config-dir a=b study=x seed=1"),
        ("--config-dir=mine a=1 --info b=2", "--config-dir=mine a=1 b=2 --info"),
        ("seed=1 --info", "seed=1 --info"),
        ("--config-n smoke seed=1 -m", "--config-n smoke seed=1 -m"),
        ("", ""),
        ("a=1 --info plugins ~b +c=1", "--info plugins a=1 ~b +c=1"),
        ("a=1 --cfg job --resolve word", "--cfg job --resolve a=1 word"),
    ],
)
def test_overrides_may_stand_on_both_sides_of_an_option(typed, read):
    assert options_first(typed.split()) == read.split()


def test_a_study_is_found_however_its_options_stand(tmp_path):
    (tmp_path / "mine" / "length").mkdir(parents=True)
    (tmp_path / "mine" / "length" / "own.yaml").write_text("defaults: [short, _self_]\n")
    done = ssgr(f"study=x -m dry_run=true --config-dir mine length=own,all {QUICK}", tmp_path)
    assert done.status == 0 and "2 cells: 2 planned" in done.err, done.err
