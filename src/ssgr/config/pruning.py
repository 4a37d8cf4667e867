"""Pruners, allocation and sparsity."""

from dataclasses import dataclass
from enum import StrEnum

from ssgr.config.bounds import check_at_least_one
from ssgr.errors import UserError

LARGEST_POWER = 4.0  # beyond, the norms' powers leave fp32
LARGEST_SHARE = 1000.0  # of a Gram matrix' diagonal that is added to it: nothing but the weights' size counts by then


class Sinks(StrEnum):
    keep = "keep"
    undamped = "undamped"
    exclude = "exclude"


class Tail(StrEnum):
    peak = "peak"
    median = "median"


class Propagation(StrEnum):
    pruned = "pruned"
    dense = "dense"


class DampingBasis(StrEnum):
    mean = "mean"
    per_channel = "per_channel"


@dataclass
class PrunerConfig:
    """Options that every pruner has. `reads_calibration` tells whether it looks at the calibration set at all."""

    name: str

    @property
    def reads_calibration(self) -> bool:
        return False

    def check(self) -> None:
        """UserError for values that make no sense."""


@dataclass
class CalibratedConfig(PrunerConfig):
    """A pruner that calibration data can reach."""

    propagation: Propagation
    one_pass: bool  # one calibration pass for all cells of a process that could share it; changes no result
    measure_error: bool

    def check(self) -> None:
        if self.one_pass and self.propagation != Propagation.dense:
            raise UserError(
                f"pruner.one_pass=true with pruner.propagation={self.propagation}: only pruner.propagation=dense "
                f"calibrates every sparsity and every pruner on the same activations"
            )


@dataclass
class MagnitudeConfig(CalibratedConfig):
    """Propagation matters only for measure_error."""

    @property
    def reads_calibration(self) -> bool:
        return self.measure_error


@dataclass
class StatisticsConfig(CalibratedConfig):
    """A pruner that reads statistics of the linears' inputs."""

    sinks: Sinks

    @property
    def reads_calibration(self) -> bool:
        return True


@dataclass
class WandaConfig(StatisticsConfig):
    def check(self) -> None:
        super().check()
        if self.sinks == Sinks.undamped:
            raise UserError(
                f"pruner.sinks=undamped with pruner={self.name}, which has no damping: "
                f"choose pruner.sinks=keep or exclude"
            )


@dataclass
class RIAConfig(WandaConfig):
    activation_power: float  # of the norms of the inputs; 0 leaves the weights alone to decide

    def check(self) -> None:
        super().check()
        if not 0 <= self.activation_power <= LARGEST_POWER:
            raise UserError(
                f"pruner.activation_power={self.activation_power}: must be at least 0 and at most {LARGEST_POWER:g}"
            )


@dataclass
class SparseGPTConfig(StatisticsConfig):
    damping: float  # share of the basis
    damping_basis: DampingBasis  # the mean of the Gram matrix' diagonal, or each channel's own entry of it
    block_size: int  # columns per comparison group

    def check(self) -> None:
        super().check()
        if not 0 < self.damping <= LARGEST_SHARE:
            raise UserError(f"pruner.damping={self.damping}: must be above 0 and at most {LARGEST_SHARE:g}")
        check_at_least_one(self, "pruner", "block_size")


@dataclass
class ALPSConfig(StatisticsConfig):
    ridge: float  # share of the mean of the Gram matrix' diagonal
    rho: float  # the first weight of ADMM's penalty, on a Gram matrix with unit diagonal
    iterations: int  # of ADMM, at most
    cg_steps: int  # conjugate gradient steps on the support that ADMM found

    def check(self) -> None:
        super().check()
        if not 0 < self.ridge <= LARGEST_SHARE:
            raise UserError(f"pruner.ridge={self.ridge}: must be above 0 and at most {LARGEST_SHARE:g}")
        if not 0 < self.rho < float("inf"):
            raise UserError(f"pruner.rho={self.rho}: must be above 0 and finite")
        check_at_least_one(self, "pruner", "iterations", "cg_steps")


@dataclass
class AllocationConfig:
    """Options that every allocation has. `reads_calibration` tells whether it looks at the calibration set."""

    name: str

    @property
    def reads_calibration(self) -> bool:
        return False

    @property
    def is_uniform(self) -> bool:
        return self.name == "uniform"

    def check(self) -> None:
        """UserError for values that make no sense."""


@dataclass
class OwlConfig(AllocationConfig):
    outlier_multiple: float  # an entry is an outlier above so many means of its block
    spread: float  # half the distance between the least and the most sparse block

    @property
    def reads_calibration(self) -> bool:
        return True

    def check(self) -> None:
        if not 0 < self.outlier_multiple < float("inf"):
            raise UserError(f"allocation.outlier_multiple={self.outlier_multiple}: must be above 0 and finite")
        if not 0 <= self.spread <= 0.5:
            raise UserError(f"allocation.spread={self.spread}: must be at least 0 and at most 0.5")


@dataclass
class AlphaPruningConfig(AllocationConfig):
    relative_spread: float  # the sparsest block and the least sparse one are as 1 + this to 1 - this
    tail: Tail  # where a spectrum's tail begins

    def check(self) -> None:
        if not 0 <= self.relative_spread < 1:
            raise UserError(f"allocation.relative_spread={self.relative_spread}: must be at least 0 and below 1")


@dataclass
class SparsityConfig:
    name: str
    value: float | None  # share of the prunable weights that is masked
    n: int | None  # n:m keeps n of every m inputs
    m: int | None

    def check(self) -> None:
        """UserError for a value outside [0, 1), for n without m, and for a value that contradicts n:m."""
        value, n, m = self.value, self.n, self.m
        if (n is None) != (m is None):
            raise UserError("sparsity.n and sparsity.m belong together: set both, or neither")
        if n is not None and not 0 < n < m:
            raise UserError(f"sparsity.n={n}, sparsity.m={m}: n:m keeps n of every m inputs, 0 < n < m")
        if n is not None and value is not None and not abs(value - (1 - n / m)) <= 1e-9:  # nan too
            masked = f"{n}:{m}, which masks {1 - n / m:g}"
            raise UserError(f"sparsity.value={value} contradicts {masked}: set sparsity.value=null")
        if n is None and (value is None or not 0 <= value < 1):
            raise UserError(f"sparsity.value={value}: must be a share of the weights, at least 0 and below 1")
