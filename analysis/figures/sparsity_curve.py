"""Up to which sparsity do own traces keep the model, and general text?"""

from analysis import stats
from analysis.arms import Arm, Arms, Data, gather
from analysis.figures import FIGURES, captions, findings
from analysis.figures.curves import curves
from analysis.style import Drawing, label


@FIGURES.register("sparsity_curve")
def sparsity_curve(data: Data, width: float) -> Drawing:
    arms = gather(data, ("calibration", "sparsity"))
    caption = captions.caption("Sparsity and the source of the calibration data", arms, captions.NO_JUDGE)
    return curves("sparsity_curve", arms, width, percent, float, tick, "sparsity (%)", caption, found(arms))


def percent(arm: Arm) -> float:
    return 100 * arm.values["sparsity"]


def tick(number: float) -> str:
    return f"{number:.3g}"


def full_name(arm: Arm) -> str:
    return f"{label(arm.values['calibration'])} at {tick(percent(arm))} %"


def found(arms: Arms) -> list[str]:
    """Each source's arms against dense; own traces against each other source at every sparsity."""
    family = findings.Family()
    sources = list(dict.fromkeys(arm.values["calibration"] for arm in arms))
    for source in sources:
        some = [arm for arm in arms if arm.values["calibration"] == source]
        findings.against_dense(family, arms, full_name, some)
    for source in (source for source in sources if source != "self_generated"):
        estimates = {}
        for own in (arm for arm in arms if arm.values["calibration"] == "self_generated"):
            other = arms.find(calibration=source, sparsity=own.values["sparsity"])
            if other is not None and arms.has_accuracy:
                estimates[full_name(own)] = stats.difference(own.accuracy, other.accuracy)
        family.against(f"{label(source)} at the same sparsity", estimates, findings.ACCURACY)
    return [*family.sentences(), *findings.shares(arms, full_name)]
