import dataclasses
import subprocess
import sys

import pytest
from calibration_requests import DATASET, config_of, document_rows, write_rows
from synthetic_traces import difficulty, length

from ssgr.calibration import SOURCES, check_source
from ssgr.errors import UserError

WITHOUT_TRACES = [name for name in SOURCES.names() if not SOURCES.get(name).selects]


def local_data(name, folder):
    path = str(write_rows(folder / "documents.jsonl", document_rows()))
    option = {"text": "path", "c4": "data_files", "c4_chat": "data_files", "wikitext": "data_files"}.get(name)
    return {option: path} if option else {}


@pytest.mark.parametrize("name", WITHOUT_TRACES)
@pytest.mark.parametrize(
    ("bins", "group"),
    [
        ((difficulty([0, 0.5], name="hard"), length()), "difficulty=hard"),
        ((difficulty(level=[1, 2], name="low"), length()), "difficulty=low"),
        ((difficulty(), length([0, 33.3], name="short")), "length=short"),
        ((difficulty(), length(tokens=[1, 9], name="few")), "length=few"),
    ],
)
def test_sources_without_traces_refuse_bins(name, bins, group, tmp_path):
    config = config_of(name, **local_data(name, tmp_path))
    with pytest.raises(UserError, match=group):
        check_source(config, *bins)
    check_source(config, difficulty(), length())
    check_source(config_of("self_generated"), *bins)


@pytest.mark.parametrize("name", WITHOUT_TRACES)
def test_decode_weights_need_completions(name, tmp_path):
    config = config_of(name, weights="decode", **local_data(name, tmp_path))
    if SOURCES.get(name).completions:
        check_source(config, difficulty(), length())
    else:
        with pytest.raises(UserError, match=r"token_weights=decode"):
            check_source(config, difficulty(), length())


def test_an_unknown_source_lists_the_choices():
    with pytest.raises(UserError, match=f"choices: {', '.join(SOURCES.names())}$"):
        check_source(config_of("nothing"), difficulty(), length())


@pytest.mark.parametrize("option", ["tokens", "sequences", "max_seq_len"])
def test_budgets_are_positive(option):
    config = dataclasses.replace(config_of("prompts_only"), **{"tokens": None, "sequences": None, option: 0})
    with pytest.raises(UserError, match=rf"calibration\.{option}"):
        check_source(config, difficulty(), length())


def test_checking_a_source_imports_no_torch():
    code = (
        "import sys\n"
        "from ssgr.calibration import check_source\n"
        "from ssgr.config import CalibrationConfig, DifficultyConfig, LengthConfig\n"
        "config = CalibrationConfig('general_text', 1, None, 1, 'all')\n"
        "check_source(config, DifficultyConfig('all', None, None), LengthConfig('all', None, 'store', None, None))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["c4", "c4_chat", "wikitext", "off_policy"])
def test_a_source_is_named_by_its_files_or_by_the_hubs_data(name, tmp_path):
    contents = SOURCES.get(name).contents
    rows = document_rows()
    here, there = write_rows(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "b.jsonl", rows)
    other = write_rows(tmp_path / "c.jsonl", rows[1:])
    named = [contents(config_of(name, data_files=str(path))) for path in (here, there, other)]
    assert named[0] == named[1] != named[2]
    assert contents(config_of(name, data_files=str(tmp_path / "*.jsonl"))) == [*named[0], *named[1], *named[2]]
    pinned = dataclasses.replace(DATASET, revision="v1")
    assert contents(config_of(name, dataset=pinned)) == ["someone/data", "en", "train", "v1"]


@pytest.mark.parametrize("name", ["c4", "text", "off_policy"])
def test_missing_files_name_their_option_before_anything_runs(name, tmp_path):
    option = "path" if name == "text" else "data_files"
    (tmp_path / "table.csv").write_text("text\n1\n")
    for path, words in {
        "nowhere.jsonl": "no such file",
        str(tmp_path): "a folder, not a file",
        str(tmp_path / "*.jsonl"): "no file matches",
        str(tmp_path / "table.csv"): "choices: .txt",
    }.items():
        with pytest.raises(UserError, match=rf"calibration\.{option}=") as caught:
            check_source(config_of(name, **{option: path}), difficulty(), length())
        assert words in str(caught.value) and "\n" not in str(caught.value)
