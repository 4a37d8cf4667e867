"""Does the choice of calibration data matter more than the choice of pruner?"""

from itertools import product

from analysis import stats
from analysis.arms import Arm, Arms, Data, gather
from analysis.figures import FIGURES, captions, findings, plotted
from analysis.figures.nominal import nominal, source_of
from analysis.style import Drawing, label, sparsity_label


@FIGURES.register("pruner_comparison")
def pruner_comparison(data: Data, width: float) -> Drawing:
    arms = gather(data, ("pattern", "sparsity", "pruner", "calibration"))
    caption = captions.caption("Pruner and calibration data", arms, captions.NO_JUDGE)
    return nominal("pruner_comparison", arms, width, pruned_how, source_of, caption, found(arms), legend=True)


def pruned_how(arm: Arm) -> str:
    return f"{label(arm.values['pruner'])} {pattern_of(arm)}"


def pattern_of(arm: Arm) -> str:
    return sparsity_label(arm.values["sparsity"], arm.values["pattern"])


def full_name(arm: Arm) -> str:
    return pruned_how(arm) if source_of(arm) == "nothing" else f"{pruned_how(arm)} on {label(source_of(arm))}"


def found(arms: Arms) -> list[str]:
    """Within each pattern: the data under each pruner, the pruner on each source, one against the other; then dense."""
    family = findings.Family()
    for pattern in dict.fromkeys(pattern_of(arm) for arm in arms):
        inside = [arm for arm in arms if pattern_of(arm) == pattern]
        for one, other in product(inside, inside):
            compare(family, arms, one, other)
    findings.against_dense(family, arms, full_name)
    return [*family.sentences(), *findings.shares(arms, full_name), *findings.kl_and_accuracy(arms.runs)]


def compare(family: findings.Family, arms: Arms, one: Arm, other: Arm) -> None:
    """Own traces against another source, also across pruners; a pruner against the one before it on the same source.

    The data matter more than the pruner where own traces win under either pruner against the other source under the
    other pruner. KL is compared between pruners only.
    """
    data = source_of(one) == "self_generated" != source_of(other)
    pruner = source_of(one) == source_of(other) and arms.arms.index(one) > arms.arms.index(other)
    for measure in plotted.measures(arms):
        if (data and measure == "accuracy") or pruner:
            estimate = stats.difference(one.measure(measure), other.measure(measure))
            family.difference(full_name(one), full_name(other), estimate, findings.MEASURES[measure])
