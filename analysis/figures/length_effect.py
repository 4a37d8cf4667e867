"""Are moderately long traces better calibration data than short and long ones?"""

from analysis.arms import Arms, Data
from analysis.figures import FIGURES, findings, plotted
from analysis.figures.bins import ordered_effect
from analysis.style import Drawing


def tests(family: findings.Family, arms: Arms) -> list[str]:
    """Whether the middle of three bins is better than both others; and whether KL agrees outside their homes."""
    bins = [arm for arm in arms if arm.values["length"] != "all"]
    if len(bins) != 3:
        return [f"The inverted U needs three bins of length, not {len(bins)}: not tested."]
    names = [arm.values["length"] for arm in bins]
    checks = [findings.home_advantage(arms, "length", names[1], end) for end in (names[0], names[2])]
    for measure in plotted.measures(arms):
        elsewhere = measure == "accuracy" or all(check is not None and check.sign for check in checks)
        family.inverted_u(names, [arm.measure(measure) for arm in bins], findings.MEASURES[measure], elsewhere)
    return findings.signs(checks)


@FIGURES.register("length_effect")
def length_effect(data: Data, width: float) -> Drawing:
    return ordered_effect("length_effect", "Length of the traces that calibrate", "length", data, width, tests)
