"""Variables held still while another axis varies: one target for all arms of a study, and a draw that meets it.

The target is a distribution over strata of the balanced variables, from the view, the correctness, the cap of traces
per problem and the balanced variables alone, so that every bin of difficulty and length aims at the same one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ssgr.config import Balance, SelectionConfig
from ssgr.errors import CellError
from ssgr.traces.eligible import problem_places
from ssgr.traces.store import StoreView
from ssgr.traces.strata import capped_weights, cells_of, coded, joint, values_of

NUMERIC = (Balance.length, Balance.difficulty, Balance.level)
DUE = 3  # strata that a step of the draw chooses among, so that rounding does not push the means off
CANDIDATES = 8  # of each
ALLOWED = 0.025  # from the target, so that no two arms are over 5 % of a deviation, or of their traces, apart unsaid


@dataclass(frozen=True)
class BalanceTarget:
    """What every arm aims at. Arrays run over view.traces unless said otherwise.

    `strata`: int, the stratum of each trace, -1 where it is in none that every bin shares. `shares`: float, shape
    (strata,), sums to 1. `offsets`: float, shape (traces, numeric variables), the distance from the target's mean in
    standard deviations of all correct traces. `categories`: of each categorical variable the category of each trace
    and the target's share of each category. `support`: the part of the traces in any cell that lies in the strata.
    """

    variables: list[Balance]
    problems: np.ndarray
    strata: np.ndarray
    shares: np.ndarray
    offsets: np.ndarray
    categories: dict[Balance, tuple[np.ndarray, np.ndarray]]
    support: float

    def report(self, places: np.ndarray, dry: int) -> dict[str, Any]:
        """How near the traces at these places of view.traces come to the target; `dry`: strata that ran out.

        `differences` are (mean - target's mean) / standard deviation of numeric variables, and the total variation
        distance of the others.
        """
        off = self.offsets[places].mean(axis=0) if len(places) else np.zeros(self.offsets.shape[1])
        found = dict(zip((name for name in self.variables if name in NUMERIC), off.tolist(), strict=True))
        for variable, (codes, shares) in self.categories.items():
            taken = np.bincount(codes[places], minlength=len(shares)) / max(len(places), 1)
            found[variable] = float(np.abs(taken - shares).sum() / 2)
        differences = {str(variable): found[variable] for variable in self.variables}
        return {"differences": differences, "strata": len(self.shares), "dry_strata": dry, "support": self.support}


def balance_target(view: StoreView, selection: SelectionConfig) -> BalanceTarget:
    """The target of every arm of this view with this selection.

    A stratum's share is the smallest that it has in any cell of the axes that are not balanced (strata.cells_of), so
    that every cell can supply it; its mean is that of the cells' means. Traces in no cell, and those of problems
    without a balanced variable, do not count.

    Raises CellError where no stratum is in every cell, UserError where no problem has the variable.
    """
    variables = list(dict.fromkeys(Balance(name) for name in selection.balance))
    problems, cells = problem_places(view), cells_of(view, selection)
    codes = {name: coded(view, name, cells >= 0, len(variables)) for name in variables}
    strata = joint(list(codes.values()))
    counted = np.flatnonzero((cells >= 0) & (strata >= 0))
    weights = capped_weights(problems[counted], cells[counted], selection.max_traces_per_problem)
    by_cell = _Sums(cells[counted], strata[counted])
    mass = by_cell(weights)
    least = (mass / mass.sum(axis=1, keepdims=True)).min(axis=0) if len(counted) else np.zeros(1)
    shared = np.flatnonzero(least > 0)
    if not len(shared):
        raise CellError(_nothing_shared(variables, view.more))
    shares = least[shared] / least[shared].sum()
    offsets = np.empty((len(problems), 0))
    for values in (values_of(view, name) for name in variables if name in NUMERIC):
        means = by_cell(weights * values[counted])[:, shared] / mass[:, shared]
        known = values[view.traces["correct"].to_numpy(bool) & ~np.isnan(values)]
        deviation = known.std() if len(known) else 0.0
        offsets = np.column_stack([offsets, (values - shares @ means.mean(axis=0)) / (deviation or 1.0)])
    number = np.full(max(strata.max(), 0) + 2, -1)  # the last one is that of traces in no stratum
    number[shared] = np.arange(len(shared))
    strata = number[strata]
    categories = {name: (codes[name], _shares_of(codes[name], strata, shares)) for name in codes if name not in NUMERIC}
    return BalanceTarget(variables, problems, strata, shares, offsets, categories, float((strata[counted] >= 0).mean()))


class BalancedDraw:
    """Iterates over candidates so that they follow the target as closely as they can, at any length of the draw.

    Step by step the strata that lack most of their shares are due; of the next few candidates of each the one that
    brings the means of the numeric variables nearest to the target's is taken. `candidates` are places in view.traces,
    in the order in which they are preferred; places among the candidates come out, no more than `cap` of one problem.
    A stratum without candidates is passed over and counted in `dry`.
    """

    def __init__(self, target: BalanceTarget, candidates: np.ndarray, cap: int):
        self.dry, self._cap = 0, cap
        self._shares, self._numeric = target.shares.copy(), target.offsets.shape[1]
        self._problems = target.problems[candidates].tolist()
        self._offsets = target.offsets[candidates].tolist()
        self._taken: Counter[int] = Counter()
        self._windows: list[list[int]] = [[] for _ in target.shares]
        strata = target.strata[candidates]
        self._strata = strata.tolist()
        order = np.argsort(strata, kind="stable")
        queues = np.split(order, np.searchsorted(strata[order], np.arange(len(target.shares))))[1:]
        self._queues = [iter(queue.tolist()) for queue in queues]

    def __iter__(self) -> Iterator[int]:
        counts, sums = np.zeros(len(self._shares)), [0.0] * self._numeric
        for drawn in range(1, len(self._problems) + 1):
            window: list[int] = []
            while not window:
                due = self._due(self._shares * drawn - counts)
                if not due:
                    return
                window = [place for stratum in due for place in self._refilled(stratum)]
            distances = [self._distance(sums, place) for place in window]
            place = window[distances.index(min(distances))]
            self._windows[self._strata[place]].remove(place)
            counts[self._strata[place]] += 1
            self._taken[self._problems[place]] += 1
            sums = [total + offset for total, offset in zip(sums, self._offsets[place], strict=True)]
            yield place

    def _due(self, lacking: np.ndarray) -> list[int]:
        """The strata that lack most, the neediest first; none where all are dry."""
        neediest = np.argsort(-lacking, kind="stable")[:DUE]
        positive = [int(stratum) for stratum in neediest if lacking[stratum] > 0]
        return positive or [int(stratum) for stratum in neediest[:1] if lacking[stratum] > -np.inf]

    def _refilled(self, stratum: int) -> list[int]:
        """The next candidates of this stratum; where there are none it counts as dry from now on."""
        window = [place for place in self._windows[stratum] if self._is_free(place)]
        following = (place for place in self._queues[stratum] if self._is_free(place))
        window += islice(following, CANDIDATES - len(window))
        self._windows[stratum] = window
        if not window:
            self.dry += 1
            self._shares[stratum] = -np.inf
        return window

    def _distance(self, sums: list[float], place: int) -> float:
        return sum((total + offset) ** 2 for total, offset in zip(sums, self._offsets[place], strict=True))

    def _is_free(self, place: int) -> bool:
        return self._taken[self._problems[place]] < self._cap


def balance_note(report: dict[str, Any], more: str) -> str:
    """One line for a person: how near a balanced draw came; where not near enough, why and what would help.

    `more` is the view's: what would give it more traces.
    """
    differences = report["differences"]
    told = ", ".join(
        f"{name} {off:+.3f} standard deviations" if name in NUMERIC else f"{name} {off:.1%} of the traces"
        for name, off in differences.items()
    )
    failed = " and ".join(name for name, off in differences.items() if abs(off) > ALLOWED)
    told = f"off the target that all bins share ({report['support']:.0%} of the traces lie in its strata) by {told}"
    if not failed:
        return f"balance: {told}"
    if not report["dry_strata"]:
        return f"balance: {told}: too few traces to hold {failed} still; a larger budget would help"
    return (
        f"balance: {told}: this store cannot hold {failed} still here, {report['dry_strata']} of {report['strata']} "
        f"strata ran dry; {more} or a smaller budget would help"
    )


class _Sums:
    """Sums of per-trace values by cell and stratum: float, shape (cells, strata)."""

    def __init__(self, cells: np.ndarray, strata: np.ndarray):
        self.shape = (len(np.unique(cells)), strata.max(initial=-1) + 1)
        self.keys = np.unique(cells, return_inverse=True)[1].reshape(-1) * self.shape[1] + strata

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.keys, weights=values, minlength=self.shape[0] * self.shape[1]).reshape(self.shape)


def _shares_of(codes: np.ndarray, strata: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The target's share of each category of one variable; every stratum has one category."""
    category = np.zeros(len(shares), dtype=np.int64)
    category[strata[strata >= 0]] = codes[strata >= 0]
    return np.bincount(category, weights=shares, minlength=codes.max() + 1)


def _nothing_shared(variables: list[Balance], more: str) -> str:
    names = ", ".join(variables)
    return (
        f"selection.balance=[{names}]: no value of {names} occurs in every bin of difficulty and length of this store, "
        f"so that its arms have nothing in common; {more} or fewer balanced variables would help"
    )
