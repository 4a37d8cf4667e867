"""The contrasts that were fixed beforehand, gathered from several studies at once."""

import numpy as np
import pandas as pd
import pytest
from synthetic_studies import ALONE, write_matched, write_study
from test_figures import check_legible, texts_of

from analysis import figures, load_divergence, load_runs, load_samples, stats
from analysis.__main__ import main
from analysis.arms import Data
from analysis.figures import contrasts, findings
from analysis.style import WIDTHS
from analysis.verdicts import SignCheck
from ssgr.errors import UserError

NAMES = ["hard − easy", "moderate − short", "moderate − long"]


def data_of(*folders):
    folders = [str(folder) for folder in folders]
    return Data(load_runs(folders), load_samples(folders), load_divergence(folders))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Matched cells with accuracy, unmatched ones of the divergence alone; no name says which is which."""
    folder = tmp_path_factory.mktemp("claims") / "runs"
    write_matched(folder, "some_one", "some_two")
    for name in ("difficulty_effect", "length_effect"):
        write_study(folder, name, study=f"other_{name}", **ALONE)
    return folder


@pytest.fixture(scope="module")
def data(runs):
    return data_of(runs)


@pytest.fixture(scope="module")
def drawing(data):
    return figures.draw("claims", data)


def test_each_contrast_stands_matched_and_unmatched_and_with_what_its_runs_hold(drawing):
    table = drawing.table
    assert set(table["kind"]) == {"difference"}
    shown = table.groupby(["panel", "matched"])["arm"].agg(list).to_dict()
    assert shown == {("accuracy", True): NAMES, ("kl", True): NAMES, ("kl", False): NAMES}
    assert (table["seeds"] == 3).all() and (table["problems"] == 60).all()


def test_the_numbers_are_those_of_the_arms(data, drawing):
    def measured(table, column, balance, **bins):
        runs = data.runs[data.runs["config"].str.contains(balance, regex=False)]
        for name, value in bins.items():
            runs = runs[runs[name] == value]
        found = table[table["cell"].isin(runs["cell"])].drop_duplicates(["cell", "problem_id"])
        return found.pivot(index="cell", columns="problem_id", values=column).to_numpy(float)

    hard, easy = (
        measured(data.samples, "correct", '"balance": ["length"]', difficulty=bin_) for bin_ in ("hard", "easy")
    )
    row = drawing.table[(drawing.table["panel"] == "accuracy") & (drawing.table["arm"] == "hard − easy")].iloc[0]
    estimate, inner = stats.difference(hard, easy), stats.difference(hard, easy, 0.9)
    assert row[["value", "low", "high"]].tolist() == pytest.approx([estimate.value, estimate.low, estimate.high])
    assert row[["inner_low", "inner_high"]].tolist() == pytest.approx([inner.low, inner.high])
    assert row["half_width"] == pytest.approx((estimate.high - estimate.low) / 2) and row["margin"] == 0.015
    p = drawing.table["p_adjusted"]
    assert row["p_adjusted"] >= estimate.p and (p >= 0).all() and (p <= 1).all()


def test_the_margin_of_kl_is_a_share_of_the_all_arms_wherever_that_lies(data, drawing):
    alls = data.runs[(data.runs["difficulty"] == "all") & (data.runs["length"] == "all")].drop_duplicates("cell")
    margins = drawing.table.loc[drawing.table["panel"] == "kl", "margin"]
    assert len(alls) == 3 and margins.to_numpy() == pytest.approx(0.03 * alls["kl"].mean())
    assert f"± 3 % of the mean KL of the `all` arm ({alls['kl'].mean():.3g})" in drawing.caption


def test_without_an_all_arm_it_is_a_share_of_the_mean_over_the_axis_and_that_is_said(data):
    runs = data.runs[(data.runs["difficulty"] != "all") | (data.runs["length"] != "all")]
    drawing = figures.draw("claims", Data(runs, data.samples, data.divergence))
    for axis, bins in (("difficulty", "easy, medium, hard"), ("length", "short, moderate, long")):
        mean = runs[runs[axis] != "all"].groupby(["study", axis])["kl"].mean().mean()
        assert f"of the arms {bins}, as there is no `all` arm ({mean:.3g})" in drawing.caption
        rows = drawing.table[(drawing.table["panel"] == "kl") & drawing.table["arm"].str.contains(bins[:4])]
        assert rows["margin"].to_numpy() == pytest.approx(0.03 * mean)


def test_all_arms_that_were_pruned_or_chosen_otherwise_are_no_yardstick(data, tmp_path):
    def stick(*folders):
        groups, left_out = contrasts.gather_groups(data_of(*folders, tmp_path / "matched"))
        assert left_out == []
        return {group.yardstick for group in groups}

    write_matched(tmp_path / "matched")
    (alone,) = {one.of.startswith("the arms") for one in stick()}
    assert alone
    others = {
        "pruner": {"pruner": "wanda"},
        "damping": {"pruner__damping": "0.1"},
        "sparsity": {"sparsity": "s40"},
        "wrong": {"selection__correctness": "incorrect"},
        "source": {"calibration": "reference_solutions"},
    }
    for name, more in others.items():
        write_study(tmp_path / name, "length_effect", keep=lambda cell: cell["length"] == "all", study=name, **more)
        assert stick(tmp_path / name) == stick(), name
    for budget in ("4096", "16384"):
        more = {"study": budget, "calibration__tokens": budget}
        write_study(tmp_path / budget, "length_effect", keep=lambda cell: cell["length"] == "all", **more)
    (other,) = stick(tmp_path / "4096")
    (same,) = stick(tmp_path / "4096", tmp_path / "16384")
    assert other.of == same.of == "the `all` arm" and (same,) == tuple(stick(tmp_path / "16384"))
    assert other.kl == pytest.approx(load_runs(tmp_path / "4096")["kl"].mean()), "of another budget where no other is"


def test_what_is_said_of_each(drawing):
    said = drawing.findings
    assert len([line for line in said if "for a margin of ±" in line]) == 9 == len(drawing.table)
    assert said[0].startswith("Hard − easy, matched by length, in accuracy: ")
    assert said[2].startswith("Hard − easy, unmatched, in KL (nats per token, lower is better): ")
    assert [line.split(":")[0] for line in said[9:12]] == [
        "Moderate is best, matched by difficulty, in accuracy",
        "Moderate is best, matched by difficulty, in KL",
        "Moderate is best, unmatched, in KL",
    ]
    for line, verdict in zip(said, drawing.table["verdict"], strict=False):
        assert f"): {verdict}" in line and "half width" in line and "60 problems, 3 seeds" in line
    shares = [line.split(":")[0] for line in said[13:]]
    assert shares == [*2 * ["Matched by length"], "Unmatched", *2 * ["Matched by difficulty"], "Unmatched"]
    assert "matched (difficulty by length, length by difficulty)" in drawing.caption and not drawing.notes
    assert (
        "n = 60 problems, k = 1 answer to each (dense" in drawing.caption
        and "n = 60 problems (dense" in drawing.caption
    )


def test_the_rank_correlation_is_over_the_distinct_cells_that_have_both(data, drawing):
    both = data.runs.dropna(subset=["kl", "accuracy"]).drop_duplicates("cell")
    rho = both["kl"].rank().corr(both["accuracy"].rank())
    wanted = f"Rank correlation of KL and accuracy over {len(both)} cells calibrated on own traces: {rho:+.2f}."
    assert drawing.findings[12].startswith(wanted.replace("-", "−")) and len(both) == 18
    assert drawing.findings[12].endswith("(At −1 a lower KL always goes with a higher accuracy.)")


def test_a_cell_that_several_studies_hold_is_counted_once(tmp_path):
    for name in ("length_effect", "difficulty_length_grid"):
        write_study(tmp_path, name)
    data = data_of(tmp_path)
    assert data.runs["cell"].duplicated().any()
    one = figures.draw("claims", data.of("length_effect"))
    both = figures.draw("claims", data)
    columns = ["value", "low", "high"]
    lengths = both.table[both.table["arm"].str.startswith("moderate")]
    assert lengths[columns].to_numpy() == pytest.approx(one.table[columns].to_numpy())
    assert lengths["margin"].to_numpy() == pytest.approx(one.table["margin"].to_numpy())
    correlation = [line for line in both.findings if "Rank correlation" in line]
    assert f"over {data.runs['cell'].nunique()} cells" in correlation[0]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("folder", ["all of them", "matched", "unmatched"])
def test_it_is_legible_whatever_is_in_it(data, width, folder):
    matched = data.runs["study"].str.startswith("some")
    runs = {"all of them": data.runs, "matched": data.runs[matched], "unmatched": data.runs[~matched]}[folder]
    drawing = figures.draw("claims", Data(runs, data.samples, data.divergence), width)
    texts = texts_of(drawing)
    check_legible(drawing, texts)
    shown = {text.get_text() for text in texts}
    assert ("matched" in shown) == (folder != "unmatched") and ("unmatched" in shown) == (folder != "matched")
    assert ("accuracy" in shown) == ("better →" in shown) == (folder != "unmatched") and "← better" in shown
    assert ("Squares: selections that were not matched." in drawing.caption) == (folder == "unmatched")


def test_the_margin_is_shaded_over_every_row(drawing):
    for axes in drawing.figure.axes:
        (band,) = axes.collections
        points = band.get_paths()[0].vertices
        rows = drawing.table[drawing.table["panel"] == ("accuracy" if "acc" in axes.get_title(loc="left") else "kl")]
        assert (points[:, 1].min(), points[:, 1].max()) == (-0.5, 2.5)
        assert np.abs(points[:, 0]).max() == pytest.approx(rows["margin"].max())


def of_models(data, names):
    """The same runs, said to be of several models."""
    tables = [
        (
            data.runs.assign(model=name, study=data.runs["study"] + name, cell=data.runs["cell"] + name),
            *(
                table.assign(study=table["study"] + name, cell=table["cell"] + name)
                for table in (data.samples, data.divergence)
            ),
        )
        for name in names
    ]
    return Data(*(pd.concat(parts) for parts in zip(*tables, strict=True)))


def test_several_models_stand_in_panels_of_their_own_and_too_many_are_refused(data):
    drawing = figures.draw("claims", of_models(data, ["tiny_reasoner", "another_model"]))
    check_legible(drawing, texts_of(drawing))
    assert len(drawing.figure.axes) == 4 and len(drawing.table) == 18
    assert "Hard − easy, unmatched (another_model, tiny_math), in KL" in "\n".join(drawing.findings)
    assert drawing.caption.endswith("tiny_reasoner and its problems are synthetic: the figure shows what is measured, "
                                    "not what holds for real ones.")  # fmt: skip
    with pytest.raises(UserError, match="5 models and tasks are too many"):
        figures.draw("claims", of_models(data, list("abcde")))


def test_a_model_of_accuracy_alone_has_no_panel_of_kl(data):
    several = of_models(data, ["a", "b"])
    kept = several.divergence[several.divergence["cell"].str.endswith("a")]
    runs = several.runs[(several.runs["model"] == "a") | several.runs["accuracy"].notna()]
    runs = runs.assign(kl=runs["kl"].where(runs["model"] == "a"))
    drawing = figures.draw("claims", Data(runs, several.samples, kept))
    check_legible(drawing, texts_of(drawing))
    assert [axes.get_visible() for axes in drawing.figure.axes] == [True, True, True, False]
    assert set(drawing.table.loc[drawing.table["model"] == "b, tiny_math", "panel"]) == {"accuracy"}


def test_cells_of_the_divergence_alone_add_seeds_to_kl_and_other_settings_and_arms_stay_out(tmp_path):
    def write(study, cells, seeds, **more):
        def keep(cell):
            return cell["difficulty"] in cells and cell["seed"] in seeds

        write_study(tmp_path, "difficulty_effect", seeds=4, keep=keep, study=study, **more)

    write("answers", ("hard", "easy"), "01")
    write("alone", ("hard", "medium", "easy"), "23", **ALONE)
    pooled = figures.draw("claims", data_of(tmp_path))
    assert pooled.table.set_index("panel")["seeds"].to_dict() == {"accuracy": 2, "kl": 4}, "medium lacks two of them"
    assert pooled.notes == [] and len([line for line in pooled.findings if "variance" in line]) == 2
    write("early", ("hard", "easy"), "01", **ALONE)  # what has answers later is counted once, with them
    write("sinks", ("hard",), "01", pruner__sinks="exclude")
    more = figures.draw("claims", data_of(tmp_path))
    assert more.notes == [] and more.table.equals(pooled.table)
    write("damped", ("hard", "easy"), "01", pruner__damping="0.1")
    with pytest.raises(UserError, match=r"the cells differ in pruner.damping \(0.01, 0.1\)"):
        figures.draw("claims", data_of(tmp_path))


def test_a_contrast_matched_by_other_axes_stands_beside_that_of_one(runs, tmp_path):
    for balance in ("[length,family]", "[family]"):
        more = {"study": balance, "selection__balance": balance}
        write_study(tmp_path, "difficulty_effect", keep=lambda cell: cell["difficulty"] != "all", **more)
    drawing = figures.draw("claims", data_of(runs, tmp_path))
    rows = drawing.table[(drawing.table["panel"] == "kl") & (drawing.table["arm"] == "hard − easy")]
    by = ["matched by family", "matched by length", "matched by length and family", "unmatched"]
    assert rows["series"].str.split(": ").str[1].tolist() == by
    heights = [line.get_ydata()[0] for line in drawing.figure.axes[1].lines if "hard" in str(line.get_gid())]
    assert len(set(heights)) == 4
    assert "Discs (diamonds: by several axes)" in drawing.caption
    check_legible(drawing, texts_of(drawing))


def test_what_cannot_be_compared_is_left_out_and_said(data, tmp_path):
    write_study(tmp_path, "difficulty_effect", study="third", pruner="wanda", **ALONE)
    drawing = figures.draw("claims", Data(*(
        pd.concat(parts) for parts in zip(
            (data.runs, data.samples, data.divergence),
            (load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path)),
            strict=True,
        )
    )))  # fmt: skip
    assert len(drawing.notes) == 1 and "the cells differ in pruner (wanda, sparsegpt)" in drawing.notes[0]
    rows = drawing.table[drawing.table["arm"] == "hard − easy"]
    assert rows["matched"].all() and len(rows) == 2


def test_runs_without_a_contrast_are_refused_in_one_line(data, tmp_path):
    write_study(tmp_path, "smoke")
    with pytest.raises(UserError, match="no study holds both arms of a contrast: hard − easy, moderate − short, mod"):
        figures.draw("claims", data_of(tmp_path))
    easy = data.runs[data.runs["difficulty"] == "easy"]
    with pytest.raises(UserError, match="no study holds both arms"):
        figures.draw("claims", Data(easy, data.samples, data.divergence))


def test_the_command_reads_the_studies_that_are_named_and_all_draws_it(runs, capsys, tmp_path):
    names = ["some_one", "some_two"]
    studies = [argument for name in names for argument in ("--study", name)]
    assert main(["claims", "--runs", str(runs), *studies, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "unmatched" not in said.out and said.out.count("for a margin of ±") == 6
    assert main(["all", "--runs", str(runs), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "claims.png").is_file() and capsys.readouterr().out.count("for a margin of ±") == 9


@pytest.mark.parametrize(("sign", "counts"), [(-1, True), (0, False)])
def test_a_shape_in_kl_counts_only_where_both_leads_hold_in_bins_like_neither_arm(tmp_path, monkeypatch, sign, counts):
    write_study(tmp_path, "length_effect", seeds=4)
    signs = SignCheck("moderate", "long", -0.001, {"short": 0.001}, sign)
    monkeypatch.setattr(findings, "home_advantage", lambda *about: signs)
    shapes = [line for line in figures.draw("length_effect", data_of(tmp_path)).findings if "one-sided" in line]
    assert [line.split(" shown in ")[0] for line in shapes] == ["No inverted U", "U"]  # accuracy, KL
    assert [line.endswith("so that it does not count.") for line in shapes] == [False, not counts]
