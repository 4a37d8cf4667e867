"""What stands under a figure before its findings: what was measured on what, and what every sign means."""

from analysis.arms import Arms
from analysis.stats import BOOTSTRAP, COMPONENTS
from analysis.style import label, sparsity_label

SYNTHETIC = "tiny_reasoner"
ALL_ARM = "`all`: traces from no bin, at the same token budget."
NO_JUDGE = (
    "KL is measured on the dense model's own answers: it is no judge between own traces and other text, so that only "
    "accuracy is compared between sources."
)
KL_OF_WHAT = "KL: of the pruned from the dense model, per token of one dense answer to each problem."
BROKEN = "The accuracy axis is broken at the two strokes."


def caption(title: str, arms: Arms, *parts: str) -> str:
    """Title, model, task, n, k, pruner, sparsity, budget, seeds; `parts`; signs; what is synthetic."""
    sentences = [f"**{title}.** {measured_on(arms)}", how(arms), *parts, *signs(arms)]
    if is_synthetic(arms):
        sentences.append(synthetic())
    return " ".join(sentence for sentence in sentences if sentence)


def matrix(arms: Arms, has_all: bool) -> str:
    if not arms.has_kl:
        return ""
    return (
        "Below: mean KL by calibration arm (rows) and by the held-out problem's bin of pass rate and of answer length "
        "(columns; n problems; never: no dense answer was right; cut: the dense answer was truncated), coloured by its "
        f"difference from the column's {'`all` arm' if has_all else 'mean'}. A bin has a home advantage on samples "
        "like itself."
    )


def is_synthetic(arms: Arms) -> bool:
    return arms.common["model"] == SYNTHETIC


def synthetic(whose: str = "This model") -> str:
    return f"{whose} and its problems are synthetic: the figure shows what is measured, not what holds for real ones."


def measured_on(arms: Arms) -> str:
    common, dense = arms.common, arms.dense
    k = f"k = {dense.repeats}" if dense.repeats else "k unknown"
    repeats = ""
    if arms.has_accuracy:
        repeats = f", k = {common['repeats']:.0f} {'answer' if common['repeats'] == 1 else 'answers'} to each"
    n = f"n = {common['problems']:,.0f} problems"
    return f"{common['model']} on {common['task']}: {n}{repeats} (dense model: {k})."


def how(arms: Arms) -> str:
    """What all arms have in common; what they are told apart by is in the figure."""
    return ", ".join(part for part in (pruned(arms), seeds(arms)) if part) + "."


def pruned(arms: Arms) -> str:
    """SparseGPT 50 %, calibrated on own traces, 16,384 calibration tokens."""
    common, parts = arms.common, []
    if common.get("pruner"):
        parts.append(label(common["pruner"]))
    if common.get("sparsity") is not None and common.get("pattern"):
        parts.append(sparsity_label(common["sparsity"], common["pattern"]))
    pruning = " ".join(parts)
    source = f"calibrated on {label(common['calibration'])}" if common.get("calibration") else ""
    bins = [
        f"{name} {common[name]}" for name in ("difficulty", "length") if common.get(name, "all") not in ("all", None)
    ]
    tokens = f"{common['tokens']:,.0f} calibration tokens" if common.get("tokens") else ""
    return ", ".join(part for part in (pruning, source, *bins, tokens) if part)


def seeds(arms: Arms) -> str:
    """Calibration seeds 0, 1; empty where no seed chose anything."""
    named = ", ".join(map(str, arms.seeds))
    return f"calibration {'seed' if len(arms.seeds) == 1 else 'seeds'} {named}" if named else ""


def signs(arms: Arms) -> list[str]:
    """What circles, discs, bars and lines are."""
    several = any(len(arm.seeds) > 1 for arm in arms)
    told = [f"{'Open circles: one calibration seed each; discs: their mean' if several else 'Discs: means'};"]
    told[0] += f" bars: {bars(arms)}."
    if arms.has_accuracy:
        error = f"± one standard error over problems ({arms.dense.value:.3f} ± {arms.dense.se:.3f})"
        told.append(f"Dashed: the dense model's accuracy {error}" + ("; its KL is 0." if arms.has_kl else "."))
    if arms.has_kl:
        told.append(KL_OF_WHAT)
    told.append(
        "Arms share their problems: whether two differ is tested problem by problem (below), not read off their bars."
    )
    return told


def bars(arms: Arms) -> str:
    """How the intervals were made."""
    single = sum(arm.seeds != (None,) and len(arm.seeds) == 1 for arm in arms)
    components = f"{COMPONENTS} over problems and calibration seeds"
    if not single:
        return f"95 % intervals from {components}"
    return f"95 % intervals from a {BOOTSTRAP}: what the seed changes is not in them"
