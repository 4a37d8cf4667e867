"""What does the source of the calibration data do at one token budget?"""

from analysis.arms import Arms, Data, gather
from analysis.figures import FIGURES, captions, findings
from analysis.figures.nominal import nominal, source_name, source_of
from analysis.style import Drawing


@FIGURES.register("calibration_source")
def calibration_source(data: Data, width: float) -> Drawing:
    arms = gather(data, ("calibration",))
    own = arms.find(calibration="self_generated")
    about = "Own traces, set apart, are this study's `all` arm: correct ones from no bin." * (own is not None)
    caption = captions.caption("Source of the calibration data", arms, about, captions.NO_JUDGE)
    return nominal(
        "calibration_source", arms, width, source_name, source_of, caption, found(arms), apart=own is not None
    )


def found(arms: Arms) -> list[str]:
    """Accuracy against own traces, then against dense; KL is not compared between sources."""
    family = findings.Family()
    own = arms.find(calibration="self_generated")
    findings.against_arm(family, arms, own, "own traces", source_name, measures=("accuracy",))
    findings.against_dense(family, arms, source_name)
    return [*family.sentences(), *findings.shares(arms, source_name)]
