"""Does everything run here, and does general text really break what own traces keep?"""

from analysis.arms import Data, gather
from analysis.figures import FIGURES, captions
from analysis.figures.calibration_source import found
from analysis.figures.nominal import nominal, source_name, source_of
from analysis.style import Drawing


@FIGURES.register("smoke")
def smoke(data: Data, width: float) -> Drawing:
    arms = gather(data, ("calibration",))
    caption = captions.caption("Smoke test: own traces and general text", arms, captions.NO_JUDGE)
    return nominal("smoke", arms, width, source_name, source_of, caption, found(arms))
