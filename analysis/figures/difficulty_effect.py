"""Are traces of hard problems better calibration data than those of easy ones?"""

from analysis.arms import Arms, Data
from analysis.figures import FIGURES, findings, plotted
from analysis.figures.bins import ordered_effect
from analysis.style import Drawing


def tests(family: findings.Family, arms: Arms) -> list[str]:
    """A trend over the bins from easy to hard; and whether KL agrees outside the home of either end."""
    bins = [arm for arm in arms if arm.values["difficulty"] != "all"]
    if len(bins) < 2:
        return []
    names = [arm.values["difficulty"] for arm in bins]
    for measure in plotted.measures(arms):
        family.trend(names, [arm.measure(measure) for arm in bins], findings.MEASURES[measure])
    return findings.signs([findings.home_advantage(arms, "difficulty", names[-1], names[0])])


@FIGURES.register("difficulty_effect")
def difficulty_effect(data: Data, width: float) -> Drawing:
    title = "Difficulty of the problems whose traces calibrate"
    return ordered_effect("difficulty_effect", title, "difficulty", data, width, tests)
