"""The look that all figures share, and files that are the same bytes wherever and whenever they are made."""

import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from synthetic_studies import write_study

from analysis import figures, load_divergence, load_runs, load_samples
from analysis.arms import Data
from analysis.comparable import ORDER
from analysis.style import (
    COLOURS,
    SMALL,
    TEXT,
    WIDTHS,
    bin_label,
    colour,
    label,
    plain_number,
    save,
    shades,
    sparsity_label,
)

GROUPS = {
    "sources": (
        "self_generated",
        "traces",
        "reference_solutions",
        "prompts_only",
        "general_text",
        "off_policy",
        "c4_chat",
        "c4",
        "wikitext",
        "text",
    ),
    "difficulty": ("all", "easy", "medium", "hard"),
    "length": ("all", "short", "moderate", "long"),
    "pruners": ("magnitude", "wanda", "ria", "sparsegpt", "alps"),
}
DRAW = """
import random, sys, time
time.time = lambda: 2e9  # another day
random.seed()
from analysis import figures, load_divergence, load_runs, load_samples
from analysis.arms import Data
from analysis.style import save
runs, out = sys.argv[1:]
for name in ("length_effect", "claims"):
    save(figures.draw(name, Data(load_runs(runs), load_samples(runs), load_divergence(runs))), out)
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A study, and its figure as this process wrote it; `claims` beside it."""
    folder = tmp_path_factory.mktemp("style")
    write_study(folder / "runs", "length_effect", seeds=2)
    runs = folder / "runs"
    data = Data(load_runs(runs), load_samples(runs), load_divergence(runs))
    save(figures.draw("claims", data), folder / "out")
    paths = save(figures.draw("length_effect", data), folder / "out")
    return folder, {path.suffix: path.read_bytes() for path in paths}


def test_every_source_has_a_colour_and_a_place_of_its_own():
    sources = [path.stem for path in (Path(__file__).parents[2] / "conf" / "calibration").glob("*.yaml")]
    assert len(sources) > 5 and set(sources) <= COLOURS.keys() and set(sources) <= set(ORDER["calibration"])
    assert len({colour(name) for name in sources}) == len({label(name) for name in sources}) == len(sources)


def test_another_process_on_another_day_writes_the_same_bytes(drawn, tmp_path):
    folder, files = drawn
    (tmp_path / "matplotlibrc").write_text("font.family: serif\nsavefig.dpi: 50\nsvg.fonttype: none\n")
    environment = {"PYTHONHASHSEED": "77", "MPLCONFIGDIR": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    environment["MATPLOTLIBRC"] = str(tmp_path)
    command = [sys.executable, "-c", DRAW, str(folder / "runs"), str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, env=environment, cwd=root, capture_output=True, timeout=120)
    assert len(files) == 5 and len(list((folder / "out").iterdir())) == 10
    for path in (folder / "out").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_five_files_are_what_they_say(drawn):
    _, files = drawn
    assert set(files) == {".pdf", ".svg", ".png", ".csv", ".md"}
    width, _ = struct.unpack(">II", files[".png"][16:24])
    assert width == round(WIDTHS["one"] * 300)
    assert files[".pdf"].startswith(b"%PDF") and b"/FontFile2" in files[".pdf"], "fonts are embedded"
    assert b"CIDFontType2" in files[".pdf"] and b"/Type3" not in files[".pdf"]
    assert b"<text" not in files[".svg"], "text as paths needs no font"
    for suffix in (".pdf", ".svg", ".png"):
        for word in (b"Date", b"Matplotlib", b"matplotlib.org", b"Software"):
            assert word not in files[suffix], (suffix, word)
    assert files[".md"].decode().startswith("**")


def test_saving_leaves_matplotlib_as_it_was(drawn):
    import matplotlib

    assert matplotlib.rcParams["svg.hashsalt"] is None and matplotlib.rcParams["pdf.fonttype"] == 3


def luminance(shade: str) -> float:
    channels = [int(shade[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def seen_without_red_and_green(shade: str) -> tuple[float, float]:
    """What a deuteranope tells colours apart by, roughly: lightness, and blue against yellow."""
    red, green, blue = (int(shade[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return luminance(shade), blue - (red + green) / 2


@pytest.mark.parametrize("group", GROUPS)
def test_colours_of_one_figure_differ_for_every_reader(group):
    shades = [COLOURS[name] for name in GROUPS[group]]
    assert len(set(shades)) == len(shades)
    for one, other in combinations(shades, 2):
        gaps = [
            abs(a - b) for a, b in zip(seen_without_red_and_green(one), seen_without_red_and_green(other), strict=True)
        ]
        assert max(gaps) > 0.06, (group, one, other)
    for shade in shades:
        assert 1.05 / (luminance(shade) + 0.05) > 2, f"{shade} is too pale on white"


def test_ordered_bins_go_from_light_to_dark():
    for names in (("easy", "medium", "hard"), ("short", "moderate", "long")):
        lights = [luminance(COLOURS[name]) for name in names]
        assert lights == sorted(lights, reverse=True)


def test_bins_that_were_set_by_hand_go_from_light_to_dark_too():
    assert shades("length", ["all", "short", "moderate", "long"]) == {
        name: COLOURS[name] for name in ("all", "short", "moderate", "long")
    }
    found = shades("length", ["all", "length0to20", "length20to60", "length60to100"])
    lights = [luminance(shade) for name, shade in found.items() if name != "all"]
    assert found["all"] == COLOURS["all"] and lights == sorted(set(lights), reverse=True)
    assert bin_label("pass0.2to0.5") == ".2–.5" and bin_label("hard/tokens100to900") == "hard/100–900"
    assert bin_label("moderate") == "moderate"


def test_unknown_values_get_a_spare_colour_and_a_plain_name():
    assert colour("some_source", 0) != colour("some_source", 1)
    assert label("some_source") == "some source" and label("self_generated") == "own traces"
    assert label(None) == label(float("nan")) == "nothing"


def test_numbers_and_sizes():
    assert TEXT >= SMALL >= 6.5 and WIDTHS == {"one": 3.3, "two": 6.9}
    assert [plain_number(value) for value in (0.05, 0.5, 1, 0, 12.5, -0.25)] == [".05", ".5", "1", "0", "12.5", "−.25"]
    assert sparsity_label(0.5, "unstructured") == "50\N{NO-BREAK SPACE}%" and sparsity_label(0.5, "2:4") == "2:4"
