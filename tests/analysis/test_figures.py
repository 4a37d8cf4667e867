"""Every template has a figure: legible at print size, its CSV what it shows, its caption saying on what."""

import io
from itertools import combinations
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from matplotlib.transforms import Bbox
from synthetic_studies import ALONE, Problems, template_names, write_cell, write_study

from analysis import figures, load_divergence, load_runs, load_samples
from analysis.arms import Data
from analysis.figures.matrix import thousandths
from analysis.style import SMALL, WIDTHS, drawing_style, save
from ssgr.errors import UserError

NAMES = figures.FIGURES.names()
SMALLEST = 6.0  # points


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every template's whole grid, with 3 calibration seeds."""
    folder = tmp_path_factory.mktemp("figures") / "runs"
    for template in template_names():
        write_study(folder, template, seeds=3)
    return folder


@pytest.fixture(scope="module")
def data(runs):
    return Data(load_runs(runs), load_samples(runs), load_divergence(runs))


@pytest.fixture(scope="module")
def drawn(data):
    """Each figure once, laid out, with the texts that were really drawn."""
    found = {}

    def draw(name, width="one"):
        if (name, width) not in found:
            drawing = figures.draw(name, data if name in figures.ANY_STUDY else data.of(name), width)
            found[name, width] = (drawing, texts_of(drawing))
        return found[name, width]

    return draw


def texts_of(drawing):
    """The text artists that an act of drawing comes by: ticks outside of an axis are never drawn."""
    from matplotlib.text import Text

    seen, draw = [], Text.draw
    with drawing_style(), mock.patch.object(Text, "draw", lambda self, *args: (seen.append(self), draw(self, *args))):
        drawing.figure.canvas.draw()
    return [text for text in dict.fromkeys(seen) if text.get_text().strip() and text.get_visible()]


def test_every_template_has_a_figure_and_every_figure_of_one_study_a_template():
    assert set(NAMES) - set(figures.ANY_STUDY) == set(template_names())
    assert set(figures.ANY_STUDY) <= set(NAMES)


def test_a_figure_is_one_file_of_its_name():
    folder = Path(figures.__file__).parent
    assert all((folder / f"{name}.py").is_file() for name in NAMES)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_no_text_overlaps_another_leaves_the_figure_or_is_too_small(drawn, name, width):
    drawing, texts = drawn(name, width)
    assert drawing.figure.get_size_inches()[0] == WIDTHS[width]
    assert len(texts) > 5
    check_legible(drawing, texts)


def check_legible(drawing, texts):
    with drawing_style():
        renderer = drawing.figure.canvas.get_renderer()
        boxes = {text: written(text, text.get_window_extent(renderer)) for text in texts}
    page = drawing.figure.bbox
    for text, box in boxes.items():
        assert text.get_fontsize() >= max(SMALLEST, SMALL), text
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text.get_text()!r} leaves the figure: {box}"
    for (one, box), (other, other_box) in combinations(boxes.items(), 2):
        across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        along = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert across <= 0.5 or along <= 0.5, f"{one.get_text()!r} overlaps {other.get_text()!r}"


def written(text, box):
    """The box of a text without the empty lines before it, which put it on a lower level."""
    lines = text.get_text().split("\n")
    empty = next(place for place, line in enumerate(lines) if line)
    return Bbox([[box.x0, box.y0], [box.x1, box.y1 - box.height * empty / len(lines)]])


def test_the_check_of_overlaps_sees_them(data):
    drawing = figures.draw("smoke", data.of("smoke"))
    with drawing_style():
        text = drawing.figure.text(0.5, 0.02, "over the legend", ha="center")
        with pytest.raises(AssertionError, match="overlaps"):
            check_legible(drawing, texts_of(drawing))
        text.set(x=0.95, y=0.5, text="out of the figure", ha="left")
        with pytest.raises(AssertionError, match="leaves the figure"):
            check_legible(drawing, texts_of(drawing))


def test_bins_that_were_set_by_hand_are_legible_too(tmp_path):
    about = Problems()
    for low, high in [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]:
        for seed in "01":
            write_cell(tmp_path, "length_effect", {"length.percentile": f"[{low}, {high}]", "seed": seed}, about)
    data = Data(load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path))
    drawing = figures.draw("length_effect", data)
    texts = texts_of(drawing)
    check_legible(drawing, texts)
    shown = [text.get_text().strip() for text in texts]
    assert all(shown.count(name) == 3 for name in ("0–20", "20–40", "40–60", "60–80", "80–100"))
    assert "relative to the mean" in shown and "column's mean" in drawing.caption, "there is no `all` arm"
    assert any("needs three bins of length, not 5" in line for line in drawing.findings)


def test_a_pruner_that_needs_no_calibration_stands_beside_the_others(tmp_path, data):
    part = data.of("pruner_comparison")
    one = part.runs.iloc[[0]].assign(cell="m", pruner="magnitude", seed=np.nan, tokens=np.nan)
    one = one.assign(calibration=None, token_weights=None, correctness=None)
    samples, divergence = (
        table[(table["cell"] == part.runs["cell"].iloc[0]) & (table["study"] == "pruner_comparison")].assign(cell="m")
        for table in (part.samples, part.divergence)
    )
    both = Data(
        pd.concat([part.runs, one]), pd.concat([part.samples, samples]), pd.concat([part.divergence, divergence])
    )
    for name in ("pruner_comparison", "cost"):
        drawing = figures.draw(name, both)
        check_legible(drawing, texts_of(drawing))
        means = drawing.table[drawing.table["kind"] == "mean"]
        assert means["arm"].str.startswith("magnitude").sum() == 2
    drawing = figures.draw("pruner_comparison", both)
    lines = [line.get_gid() for axes in drawing.figure.axes for line in axes.lines if line.get_gid()]
    assert any(gid.startswith("accuracy/mean/nothing/magnitude") for gid in lines)


@pytest.mark.parametrize("name", NAMES)
def test_points_lie_inside_their_panels(drawn, name):
    drawing, _ = drawn(name)
    for axes in drawing.figure.axes:
        for line in axes.lines:
            if line.get_gid() and "/dense/" not in line.get_gid():
                places = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack(line.get_data())))
                assert ((places >= -1e-9) & (places <= 1 + 1e-9)).all(), line.get_gid()


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_holds_exactly_what_is_plotted(drawn, tmp_path, name):
    drawing, texts = drawn(name)
    table = pd.read_csv(io.StringIO(drawing.table.to_csv(index=False)), keep_default_na=False, na_values=[""])
    artists = {}
    for axes in drawing.figure.axes:
        for line in axes.lines:
            if line.get_gid():
                artists.setdefault(line.get_gid(), []).append(np.column_stack(line.get_data()))
    told = 0
    for row in table[table["kind"] != "cell"].itertuples():
        series = "" if pd.isna(row.series) else row.series
        path = f"{row.panel}/{row.kind}/{'dense/dense' if row.kind == 'dense' else f'{series}/{row.arm}'}"
        values = np.concatenate(artists[path])
        assert np.isclose(values, row.value, rtol=1e-12, atol=0).any(), (path, row.value, values)
        if row.kind in ("mean", "difference") and f"{row.panel}/interval/{series}/{row.arm}" in artists:
            (interval,) = artists[f"{row.panel}/interval/{series}/{row.arm}"]
            assert np.isclose(interval, row.low).any() and np.isclose(interval, row.high).any()
        told += 1
    plotted = sum(len(points) for path, parts in artists.items() if "/interval/" not in path for points in parts)
    dense = sum(len(points) - 1 for path, parts in artists.items() if "/dense/" in path for points in parts)
    assert plotted - dense == told, "nothing is drawn that the table does not hold"
    cells = {text.get_gid(): text.get_text() for text in texts if (text.get_gid() or "").startswith("matrix/")}
    rows = table[table["kind"] == "cell"]
    assert len(cells) == len(rows)
    for row in rows.itertuples():
        assert cells[f"matrix/cell/{row.series}-{row.held_out}/{row.arm}"] == thousandths(row.value)


@pytest.mark.parametrize("name", NAMES)
def test_captions_state_n_k_seeds_bars_model_and_what_was_found(drawn, name):
    drawing, _ = drawn(name)
    text = drawing.text()
    assert "tiny_reasoner on tiny_math: n = 60 problems, k = 1 answer to each (dense model: k = 8)" in text
    assert ("calibration seed 0" if name == "smoke" else "calibration seeds 0, 1, 2") in text
    method = "bootstrap over problems (one seed)" if name == "smoke" else "variance components over problems"
    assert f"95 % intervals from {'a ' if name == 'smoke' else ''}{method}" in text
    assert "synthetic" in text and "SparseGPT" in text
    assert "Found:" in text and "Holm-adjusted p" in text
    assert "the dense model in accuracy" in text or name == "claims", "which compares arms alone"
    assert drawing.findings and not drawing.notes


def test_difficulty_is_tested_for_a_trend_and_length_for_an_inverted_u(drawn):
    trends = [line for line in drawn("difficulty_effect")[0].findings if "rend" in line]
    assert len(trends) == 2 and all("easy, medium, hard" in line for line in trends)
    shapes = [line for line in drawn("length_effect")[0].findings if "moderate − short" in line and "one-sided" in line]
    assert len(shapes) == 2 and "nverted U" in shapes[0] and "KL" in shapes[1]


def test_sources_are_compared_by_accuracy_alone(drawn):
    for name in ("calibration_source", "smoke", "sparsity_curve"):
        drawing, _ = drawn(name)
        assert "no judge between own traces and other text" in drawing.caption
        compared = [line for line in drawing.findings if line.startswith("Against")]
        assert compared and not any("KL" in line.split(":")[0] for line in compared)


def test_the_matrix_is_the_mean_over_seeds_and_problems_of_each_held_out_bin(data, drawn):
    table = drawn("difficulty_effect")[0].table
    runs = data.runs[(data.runs["study"] == "difficulty_effect") & (data.runs["difficulty"] == "hard")]
    divergence = data.divergence[
        data.divergence["cell"].isin(runs["cell"]) & (data.divergence["study"] == "difficulty_effect")
    ]
    for axis in ("difficulty", "length"):
        for bin_, group in divergence.groupby(axis):
            row = table[
                (table["kind"] == "cell")
                & (table["arm"] == "hard")
                & (table["held_out"] == bin_)
                & (table["series"] == axis)
            ]
            assert row["value"].item() == pytest.approx(group["kl"].mean())
            assert row["problems"].item() == group["problem_id"].nunique()
    alls = table[(table["kind"] == "cell") & (table["arm"] == "all")]
    assert (alls["relative"] == 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "smoke"])
def test_half_a_study_is_drawn_or_refused_in_one_line(runs, data, name):
    part = data.of(name) if name not in figures.ANY_STUDY else data
    some = part.runs[part.runs["seed"] == 0].iloc[::2]
    try:
        drawing = figures.draw(name, Data(some, part.samples, part.divergence))
    except UserError as refused:
        assert "\n" not in str(refused)
    else:
        assert "bootstrap" in drawing.text()
        texts_of(drawing)


def test_without_divergence_accuracy_is_drawn_alone_and_that_is_said(data, tmp_path):
    part = data.of("length_effect")
    drawing = figures.draw("length_effect", Data(part.runs, part.samples, part.divergence.iloc[:0]))
    assert set(drawing.table["panel"]) == {"accuracy"} and "KL" not in drawing.caption
    assert "Notes:" in drawing.text() and not any("dense" in line for line in drawing.findings)
    assert len(save(drawing, tmp_path)) == 5


@pytest.mark.parametrize("name", ["difficulty_effect", "length_effect", "calibration_source", "sparsity_curve"])
def test_of_the_divergence_alone_kl_is_drawn_alone(tmp_path, name):
    write_study(tmp_path, name, **ALONE)
    drawing = figures.draw(name, Data(load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path)))
    check_legible(drawing, texts_of(drawing))
    assert set(drawing.table["panel"]) - {"matrix"} == {"kl"} and (drawing.table["kind"] != "dense").all()
    assert "n = 60 problems (dense model: k = 8)" in drawing.caption and "Dashed" not in drawing.caption
    assert drawing.findings and not any(" accuracy" in line.split(":")[0] for line in drawing.findings)
    assert not drawing.notes


def test_cost_counts_the_cells_without_answers_in_one_line(tmp_path):
    write_study(tmp_path, "length_effect", **ALONE)
    data = Data(load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path))
    with pytest.raises(UserError, match=r"^12 cells measured the divergence alone$"):
        figures.draw("cost", data)
    write_study(tmp_path, "smoke")
    drawing = figures.draw("cost", Data(load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path)))
    assert drawing.notes == ["left out: 12 cells measured the divergence alone"]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("length_effect", "inverted u "),
        ("difficulty_effect", "trend "),
        ("calibration_source", "against own traces "),
        ("difficulty_length_grid", "the lead of moderate "),
        ("token_budget", "trend "),
    ],
)
def test_what_a_figure_asks_is_answered_before_the_dense_model(drawn, name, asked):
    said = [line.lower().removeprefix("no ") for line in drawn(name)[0].findings]
    dense = next(place for place, line in enumerate(said) if "the dense model in accuracy" in line)
    assert said[0].startswith(asked) and dense > 0 and not any(line.startswith(asked) for line in said[dense:])


def test_cost_draws_the_single_cell_that_a_first_run_leaves(tmp_path):
    write_cell(tmp_path, "single", {})
    drawing = figures.draw("cost", Data(load_runs(tmp_path), load_samples(tmp_path), load_divergence(tmp_path)))
    assert drawing.table["kind"].tolist().count("mean") == 2 and (drawing.table["kind"] != "seed").all()
    assert "Against the dense model in accuracy" in drawing.findings[0]
    assert "Generated tokens per answer: dense" in drawing.findings[1]
    with drawing_style():
        texts = texts_of(drawing)
    assert any("dense" in text.get_text() for text in texts)


def test_cost_counts_a_cell_that_several_studies_share_once(data, drawn):
    shared = data.runs.groupby("cell")["study"].nunique()
    assert shared.max() > 1, "the studies share cells"
    table = drawn("cost")[0].table
    means = table[(table["panel"] == "tokens") & (table["kind"] == "mean")]
    assert not means["arm"].duplicated().any()
    arms = data.runs.drop_duplicates("cell").groupby(
        ["pruner", "sparsity", "pattern", "calibration", "difficulty", "length", "tokens"]
    )
    assert len(means) == arms.ngroups


def test_cost_shows_several_models_in_rows_and_refuses_too_many(data):
    part = data.of("smoke")

    def of(models):
        copies = [
            [table.assign(study=f"of {model}", cell=table["cell"] + model) for table in (part.samples, part.divergence)]
            for model in models
        ]
        runs = [part.runs.assign(study=f"of {model}", cell=part.runs["cell"] + model, model=model) for model in models]
        samples, divergence = (pd.concat(tables) for tables in zip(*copies, strict=True))
        return Data(pd.concat(runs), samples, divergence)

    drawing = figures.draw("cost", of(["a", "b"]))
    assert len({axes.get_title(loc="left") for axes in drawing.figure.axes} - {""}) == 2
    assert "a on tiny_math" in drawing.caption and "b on tiny_math" in drawing.caption
    with pytest.raises(UserError, match="5 models and tasks are too many"):
        figures.draw("cost", of(["a", "b", "c", "d", "e"]))


def test_a_far_dense_line_breaks_the_axis_and_the_caption_says_so(data):
    part = data.of("difficulty_effect")
    easier = part.samples.assign(correct=part.samples["correct"] & (part.samples["problem_id"] < "e0015"))
    drawing = figures.draw("difficulty_effect", Data(part.runs, easier, part.divergence))
    axes = next(axes for axes in drawing.figure.axes if axes.get_title(loc="left") == "accuracy")
    assert axes.get_yscale() == "function" and "broken at the two strokes" in drawing.caption
    places = [axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1] for value in (0.1, 0.2, 0.7)]
    assert places == sorted(places) and places[-1] < 1


def test_an_unknown_figure_is_refused_with_the_choices(data):
    with pytest.raises(UserError, match=r"no figure is named 'lenght'; choices: .*length_effect"):
        figures.draw("lenght", data)
