"""How many calibration tokens are enough?"""

from itertools import pairwise
from math import log2

from analysis.arms import Arm, Arms, Data, gather
from analysis.figures import FIGURES, captions, findings, plotted
from analysis.figures.curves import curves
from analysis.style import Drawing, label


@FIGURES.register("token_budget")
def token_budget(data: Data, width: float) -> Drawing:
    arms = gather(data, ("calibration", "tokens"))
    caption = captions.caption("Calibration tokens", arms, "Tokens double from one tick of x to the next (k: 1,024).")
    return curves("token_budget", arms, width, tokens, log2, thousands, "calibration tokens", caption, found(arms))


def tokens(arm: Arm) -> float:
    return float(arm.values["tokens"])


def thousands(number: float) -> str:
    """16,384 as 16k, a power of two's k; 20,000 as 20,000."""
    return f"{number / 1024:.0f}k" if number >= 1024 and number % 1024 == 0 else f"{number:,.0f}"


def full_name(arm: Arm) -> str:
    return f"{label(arm.values['calibration'])}, {thousands(tokens(arm))}"


def found(arms: Arms) -> list[str]:
    """Of each source a trend where budgets double, and the smaller against the largest; then all against dense."""
    family = findings.Family()
    for source in dict.fromkeys(arm.values["calibration"] for arm in arms):
        some = [arm for arm in arms if arm.values["calibration"] == source]
        name = (lambda arm: thousands(tokens(arm))) if len(some) == len(arms) else full_name
        steps = {log2(tokens(after) / tokens(before)) for before, after in pairwise(some)}
        if len(steps) == 1:
            for measure in plotted.measures(arms):
                names = [name(arm) for arm in some]
                family.trend(names, [arm.measure(measure) for arm in some], findings.MEASURES[measure])
        findings.against_arm(family, arms, some[-1], f"the largest budget, {name(some[-1])},", name, among=some)
    findings.against_dense(family, arms, full_name)
    return [*family.sentences(), *findings.shares(arms, full_name), *findings.kl_and_accuracy(arms.runs)]
