"""Option files of the user's own, in a folder that --config-dir names."""

import pytest
from command_line import QUICK, ssgr

BORROWED = """
defaults: [/schema/pruner/wanda@_here_, _self_]
propagation: pruned
one_pass: false
measure_error: false
"""


def own(folder, option, text):
    """`ssgr <group>=<option>` with that option file in the folder `mine`; the cell is planned, not run."""
    group, _, name = option.partition("=")
    path = folder / "mine" / group / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return ssgr(f"--config-dir mine {QUICK} {option} dry_run=true", folder)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("pruner=mine", f"{BORROWED}name: mine\nsinks: keep\n"),  # another's schema, a name of its own
        ("pruner=mine", "defaults: [ria, _self_]\nactivation_power: 1\n"),
    ],
)
def test_an_option_of_ones_own_borrows_another(option, text, tmp_path):
    done = own(tmp_path, option, text)
    assert done.status == 0 and "planned" in done.err, done.err


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("pruner=mine", f"{BORROWED}name: alps\nsinks: keep\n", "pruner.name=alps: choose it by pruner=alps"),
        ("pruner=mine", f"{BORROWED}name: mine\nsinks: drop\n", "pruner/mine.yaml: pruner.sinks: Invalid value 'drop'"),
        (
            "calibration=mine",
            "defaults: [traces, _self_]\npth: x\n",
            "calibration/mine.yaml: there is no option calibration.pth; did you mean path?",
        ),
        ("calibration=mine", "defaults: [traces, _self_\npath: x\n", "mine.yaml:2: malformed YAML: expected ','"),
        ("calibration=mine", "path: \x01\n", "mine.yaml: special characters are not allowed"),
        ("calibration=mine", "defaults: [trces, _self_]\n", "Could not load 'calibration/trces'; choices: c4, c4_chat"),
    ],
)
def test_an_option_of_ones_own_that_cannot_be_read(option, text, expected, tmp_path):
    done = own(tmp_path, option, text)
    assert done.status == 2 and done.lines == [done.err.strip()] and expected in done.err, done.err
