"""The figure of what accuracy costs: any runs, whatever their cells differ in, and none of them dropped in silence."""

import json

from synthetic_studies import Problems, write_cell

from analysis import figures, load_divergence, load_runs, load_samples
from analysis.__main__ import main
from analysis.arms import Data
from analysis.style import drawing_style


def cost_of(folder):
    with drawing_style():
        return figures.draw("cost", Data(load_runs(folder), load_samples(folder), load_divergence(folder)))


def test_cost_draws_arms_that_differ_in_their_problems_alone_each_on_its_own(tmp_path):
    """As `ssgr` and then `ssgr -cn smoke` leave them: n 300 and n 100."""
    for count in (60, 40):
        write_cell(tmp_path, f"n{count}", {"seed": "0", "limit": str(count)}, Problems(count))
    drawing = cost_of(tmp_path)
    means = drawing.table[(drawing.table["kind"] == "mean") & (drawing.table["panel"] == "tokens")]
    assert len(means) == 2 and means[["series", "arm"]].duplicated().sum() == 0
    drawn = {artist.get_gid() for axes in drawing.figure.axes for artist in axes.lines if artist.get_gid()}
    assert {gid for gid in drawn if gid.startswith("tokens/mean")} == {
        f"tokens/mean/{series}/{arm}" for series, arm in zip(means["series"], means["arm"], strict=True)
    }
    said = " ".join(drawing.findings)
    assert "60 problems" in said and "40 problems" in said, "neither hides the other"


def test_models_that_differ_in_budget_and_problems_are_told_apart_by_their_rows_alone(tmp_path):
    write_cell(tmp_path, "mine", {"seed": "0", "limit": "40"}, Problems(40))
    other = write_cell(tmp_path, "other", {"seed": "0", "calibration.tokens": "32768"})
    result = json.loads((other / "result.json").read_text())
    result["model"]["name"], result["config"]["evaluation"]["divergence"] = "real", False
    (other / "result.json").write_text(json.dumps(result))
    (other / "divergence.parquet").unlink()
    drawing = cost_of(tmp_path)
    means = drawing.table[(drawing.table["kind"] == "mean") & (drawing.table["panel"] == "tokens")]
    assert set(zip(means["series"], means["arm"], strict=True)) == {
        ("real, tiny_math", "SparseGPT 50\N{NO-BREAK SPACE}% on own traces"),
        ("tiny_reasoner, tiny_math", "SparseGPT 50\N{NO-BREAK SPACE}% on own traces"),
    }
    assert "tiny_reasoner and its problems are synthetic" in drawing.caption and "This model" not in drawing.caption
    assert [note for note in drawing.notes if note.startswith("real, tiny_math: no divergence table")]


def test_cost_leaves_out_what_cannot_be_read_and_says_so(tmp_path):
    write_cell(tmp_path, "mine", {"seed": "0"})
    broken = write_cell(tmp_path, "mine", {"seed": "0", "calibration": "general_text"}) / "samples.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    drawing = cost_of(tmp_path)
    assert (drawing.table["kind"] == "mean").sum() == 2  # one arm, two panels
    assert any("no samples that can be read" in note for note in drawing.notes)


def test_cost_draws_the_seeds_that_can_be_read_of_an_arm_that_lacks_one(tmp_path):
    for seed in ("0", "1"):
        broken = write_cell(tmp_path, "mine", {"seed": seed}) / "samples.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    drawing = cost_of(tmp_path)
    assert drawing.table.loc[drawing.table["kind"] == "mean", "seed"].tolist() == [0, 0]
    assert [note for note in drawing.notes if "left out" in note and broken.parent.name in note]


def test_cost_names_arms_by_whatever_they_differ_in(tmp_path):
    for name, value in (("rollouts.k", "4"), ("rollouts.k", "8"), ("selection.correctness", "any")):
        write_cell(tmp_path, "mine", {"seed": "0", name: value})
    copy = write_cell(tmp_path, "other", {"seed": "0", "rollouts.k": "8"})
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(result | {"cell": "made-of-other-weights"}))
    table = cost_of(tmp_path).table
    names = table.loc[(table["kind"] == "mean") & (table["panel"] == "tokens"), "arm"].tolist()
    assert len(set(names)) == len(names) == 4
    assert sum("right or wrong" in name for name in names) == 1
    assert sum("rollouts.k 4" in name for name in names) == 1


def test_the_command_draws_the_rest_where_a_cell_cannot_be_read_and_is_one_line_where_none_can(capsys, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    folders = [write_cell(runs, "mine", {"calibration": name}) for name in ("self_generated", "general_text")]
    command = ["cost", "--study", "mine", "--runs", str(runs), "--out", str(out)]
    for count, folder in enumerate(folders):
        path = folder / "samples.parquet"
        path.write_bytes(path.read_bytes()[:100])
        assert main(command) == 2 * count
        said = capsys.readouterr().err.splitlines()
        assert not any("Traceback" in line or "KeyError" in line for line in said)
        assert any(folder.name in line and "left out" in line for line in said)
    assert said[-1].startswith("analysis: mine: ") and "no samples that can be read" in said[-1]
