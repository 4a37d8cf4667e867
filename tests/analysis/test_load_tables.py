"""Per-problem outcomes, divergences and pruning histories of a runs directory, and how runs are chosen by value."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from stored_cells import config_of, write_stored_cell

from analysis import load_divergence, load_histories, load_runs, load_samples
from ssgr.errors import UserError

LOADERS = (load_runs, load_samples, load_divergence, load_histories)


def test_samples_are_those_of_the_cells_without_the_token_ids(tmp_path):
    folders = [write_stored_cell(tmp_path, "a", name) for name in ("first", "second")]
    stored = [pd.read_parquet(folder / "samples.parquet").drop(columns="output_ids") for folder in folders]
    loaded = load_samples(tmp_path)
    assert loaded.columns.tolist()[:2] == ["study", "cell"]
    assert loaded["cell"].tolist() == ["first"] * 12 + ["second"] * 12 and (loaded["study"] == "a").all()
    expected = pd.concat(stored, ignore_index=True)
    pd.testing.assert_frame_equal(loaded.drop(columns=["study", "cell"]), expected)


def test_token_ids_are_never_read(tmp_path):
    """Their bytes in the file are destroyed: whoever reads them fails."""
    path = write_stored_cell(tmp_path, "a", "first") / "samples.parquet"
    before = load_samples(tmp_path)
    chunk = pq.read_metadata(path).row_group(0)
    (ids,) = [
        chunk.column(place) for place in range(chunk.num_columns) if "output_ids" in chunk.column(place).path_in_schema
    ]
    data = bytearray(path.read_bytes())
    start = ids.dictionary_page_offset or ids.data_page_offset
    data[start : start + ids.total_compressed_size] = bytes(ids.total_compressed_size)
    path.write_bytes(data)
    with pytest.raises((OSError, ValueError)):
        pd.read_parquet(path)
    pd.testing.assert_frame_equal(load_samples(tmp_path), before)


def test_samples_that_were_kept_without_token_ids_are_the_same(tmp_path):
    path = write_stored_cell(tmp_path, "a", "first") / "samples.parquet"
    before = load_samples(tmp_path)
    pd.read_parquet(path).drop(columns="output_ids").to_parquet(path, index=False)
    pd.testing.assert_frame_equal(load_samples(tmp_path), before)


def test_divergence_is_that_of_the_cells_that_have_one(tmp_path, capsys):
    stored = pd.read_parquet(write_stored_cell(tmp_path, "a", "first") / "divergence.parquet")
    write_stored_cell(tmp_path, "a", "dense", is_dense=True)
    evaluation = config_of()["evaluation"] | {"divergence": False}
    (write_stored_cell(tmp_path, "a", "without", evaluation=evaluation) / "divergence.parquet").unlink()
    loaded = load_divergence(tmp_path)
    pd.testing.assert_frame_equal(loaded.drop(columns=["study", "cell"]), stored)
    assert capsys.readouterr().err == ""


def test_histories_come_from_the_blocks_of_the_report(tmp_path):
    folder = write_stored_cell(tmp_path, "a", "first")
    write_stored_cell(tmp_path, "a", "dense", is_dense=True)
    blocks = json.loads((folder / "prune_report.json").read_text())["blocks"]
    loaded = load_histories(tmp_path)
    assert loaded["block"].tolist() == [0, 1, 2] and loaded["cell"].unique().tolist() == ["first"]
    assert loaded["seconds"].tolist() == [block["seconds"] for block in blocks]
    assert loaded["relative_error"].isna().tolist() == [True, True, False]


def test_of_a_report_without_blocks_the_linears_are_added_up(tmp_path):
    linears = [
        {"name": "model.layers.10.mlp.up_proj", "seconds": 4.0},
        {"name": "model.layers.2.self_attn.q_proj", "seconds": 1.0, "relative_error": 0.25},
        {"name": "model.layers.2.mlp.up_proj", "seconds": 2.0, "relative_error": 0.75},
    ]
    (write_stored_cell(tmp_path, "a", "first") / "prune_report.json").write_text(json.dumps({"rows": linears}))
    loaded = load_histories(tmp_path)
    assert loaded["block"].tolist() == [2, 10] and loaded["seconds"].tolist() == [3.0, 4.0]
    assert loaded["relative_error"].tolist()[0] == 0.5 and loaded["relative_error"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("load", "file"),
    [(load_samples, "samples.parquet"), (load_divergence, "divergence.parquet"), (load_histories, "prune_report.json")],
)
@pytest.mark.parametrize("damage", ["gone", "torn", "other"])
def test_a_file_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys, load, file, damage):
    write_stored_cell(tmp_path, "a", "good")
    path = write_stored_cell(tmp_path, "a", "bad") / file
    if damage == "gone":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif file.endswith(".parquet"):
        pd.read_parquet(path).drop(columns="tokens").to_parquet(path)
    else:
        path.write_text('{"rows": [{"name": "lm_head", "seconds": 1.0}]}')
    assert load(tmp_path)["cell"].unique().tolist() == ["good"]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path.parent) in line and "is left out" in line


def test_many_tables_that_were_not_kept_are_one_line(tmp_path, capsys):
    for place in range(7):
        (write_stored_cell(tmp_path, "a", f"cell{place}") / "prune_report.json").unlink()
    assert load_histories(tmp_path).empty
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the history of 7 cells is not there") and line.endswith("cell4 and 2 more")


@pytest.mark.parametrize("load", LOADERS)
def test_columns_and_types_do_not_depend_on_what_was_found(tmp_path, load):
    write_stored_cell(tmp_path, "a", "dense", is_dense=True)
    write_stored_cell(tmp_path, "b", "pruned")
    nothing, dense, pruned = load(tmp_path, "nothing"), load(tmp_path, "a"), load(tmp_path, "b")
    assert len(nothing) == 0 and len(pruned) > 0
    assert nothing.dtypes.to_dict() == dense.dtypes.to_dict() == pruned.dtypes.to_dict()


def test_runs_say_what_the_cell_was_and_what_it_cost(tmp_path):
    write_stored_cell(tmp_path, "a", "dense", is_dense=True)
    write_stored_cell(tmp_path, "a", "pruned")
    dense, pruned = (row for _, row in load_runs(tmp_path).iterrows())
    assert pruned[["limit", "device", "git", "schema_version"]].tolist() == [6, "cpu", "abc1234", 1]
    assert pruned[["sequences", "traces", "budget", "mean_trace_tokens"]].tolist() == [20, 20, 4096, 204.8]
    assert pruned[["seconds_pruning", "seconds_total", "sparsity_target"]].tolist() == [1.0, 4.25, 0.4]
    assert json.loads(pruned["config"])["rollouts"]["k"] == 8
    unused = ["calibration", "correctness", "token_weights", "seed", "tokens", "traces", "budget", "kl"]
    assert dense[unused].isna().all() and not pruned[unused].isna().any()


def test_runs_are_chosen_by_column_and_by_option(tmp_path):
    rollouts = config_of()["rollouts"] | {"k": 4}
    write_stored_cell(tmp_path, "a", "first", seed=0, limit=1000)
    write_stored_cell(tmp_path, "a", "second", seed=1, rollouts=rollouts, limit=None)

    def chosen(**where):
        return load_runs(tmp_path, where={name.replace("__", "."): value for name, value in where.items()})[
            "cell"
        ].tolist()

    assert chosen(limit="1000") == ["first"] and chosen(limit="null") == ["second"]
    assert chosen(seed="1") == ["second"] and chosen(difficulty="hard") == ["first", "second"]
    assert chosen(rollouts__k="4") == ["second"] and chosen(rollouts__k="5") == []
    assert chosen(difficulty__pass_rate=f"[0.0, {1 / 3}]") == ["first", "second"]
    assert chosen(rollouts__k="4", seed="0") == []
    assert chosen(evaluation__divergence="true") == ["first", "second"]
    with pytest.raises(UserError, match=r"no option of the configs is called rollouts\.q"):
        chosen(rollouts__q="4")


def test_the_same_cell_in_two_directories_is_taken_once_and_said(tmp_path, capsys):
    one, other = tmp_path / "one", tmp_path / "other"
    write_stored_cell(one, "a", "first", limit=6)
    write_stored_cell(other, "a", "first", limit=12)
    write_stored_cell(other, "a", "second")
    for load in LOADERS:
        loaded = load([one, str(other)])
        assert loaded["cell"].unique().tolist() == ["first", "second"]
        assert len(loaded) == 2 * len(load(one))
    assert load_runs([one, other])["limit"].tolist() == [6, 6]
    line = f"{other / 'a' / 'first'} is left out: the same cell is in {one / 'a' / 'first'}"
    assert line in capsys.readouterr().err


def test_a_result_that_is_not_whole_is_named_and_left_out(tmp_path, capsys):
    write_stored_cell(tmp_path, "a", "good")
    bad = write_stored_cell(tmp_path, "a", "bad", result={"sparsity": None})
    assert load_runs(tmp_path)["cell"].tolist() == ["good"]
    assert f"{bad} is left out: its result is not whole" in capsys.readouterr().err
    write_stored_cell(tmp_path, "a", "failed", result={"status": "failed"})
    runs = load_runs(tmp_path)
    assert runs["cell"].tolist() == ["good"] and len(runs.attrs["left_out"]) == 2
