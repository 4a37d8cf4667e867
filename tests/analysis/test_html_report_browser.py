"""The page in a real browser: it works from disk, asks the network for nothing, and fits a phone."""

import re

import pytest
from browser import Browser, chromium
from reported_studies import write_hostile, write_page, write_studies

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine (Debian: apt-get install chromium); parsed without it"
)

COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    write_studies(folder / "runs")
    write_hostile(folder / "runs")
    return write_page(folder, folder / "runs", "--against", "length=short", "--where", "sparsity=0.5")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_fetched_nothing_fails_and_nothing_is_wider_than_the_screen(browser, file, width, dark):
    browser.open(file, width, dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    asked = [request["request"]["url"] for request in browser.told("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    for event in (
        "Log.entryAdded",
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Page.javascriptDialogOpening",
    ):
        assert browser.told(event) == []
    light = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", light))) < 200) == dark


def test_the_check_of_widths_sees_what_is_too_wide(browser, file):
    browser.open(file, 390)
    browser.run("document.body.append(Object.assign(document.createElement('pre'), {textContent: 'x '.repeat(500)}))")
    assert browser.run("document.documentElement.scrollWidth") > 390


def column(browser, number):
    script = f"[...document.querySelectorAll('#results tbody')[0].rows].map((row) => row.cells[{number}].textContent)"
    return browser.run(script)


def test_a_click_on_a_head_sorts_and_another_one_turns_it_round(browser, file):
    browser.open(file, 1280)
    heads = browser.run("[...document.querySelector('#results thead').rows[0].cells].map((head) => head.textContent)")
    accuracy, seed, study = heads.index("accuracy ± se"), heads.index("seed"), heads.index("study")

    def click(number):
        browser.click(f"#results th:nth-child({number + 1}) button")

    click(accuracy)
    rising = [float(text.split(" ")[0]) for text in column(browser, accuracy)]
    assert rising == sorted(rising) and len(set(rising)) > 3
    click(accuracy)
    assert [float(text.split(" ")[0]) for text in column(browser, accuracy)] == rising[::-1]
    click(seed)
    seeds = column(browser, seed)
    assert seeds[-1] == "" and seeds[:-1] == sorted(seeds[:-1]), "the dense model has no seed and comes last"
    click(study)
    studies = column(browser, study)
    assert studies[-1] == "" and [name for name in studies if name in ("length_effect", "smoke")] == sorted(
        name for name in studies if name in ("length_effect", "smoke")
    )
    assert browser.run("document.querySelectorAll('#results [aria-sort]').length") == 1


def test_the_chooser_shows_the_problem_that_is_chosen_and_no_other(browser, file):
    browser.open(file, 390)
    values = browser.run("[...document.querySelectorAll('#problem option')].map((option) => option.value)")
    shown = "[...document.querySelectorAll('.problem')].filter((one) => one.offsetHeight).map((one) => one.id)"
    assert len(values) == 6 and browser.run(shown) == values[:1]
    browser.run("document.getElementById('problem').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key="End", code="End", windowsVirtualKeyCode=35)
    assert browser.run(shown) == values[-1:]
    assert browser.run("document.querySelector('.problem:not([hidden]) .answer') !== null")
