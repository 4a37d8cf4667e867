"""Second moments of a linear's inputs, with the sink tokens apart.

G = Σ w_t x_t x_tᵀ / Σ w_t over the calibration tokens, or only its diagonal. A sink token (position 0 of a sequence, or
a norm above 10 times the median) can be 50 times as long as the others: summed in fp32 beside them it drowns their
digits, so sinks are summed apart in fp64, and a pruner's `sinks` option says what becomes of them.
"""

import torch

from ssgr.config import Sinks
from ssgr.errors import CellError

SINK_RATIO = 10.0  # a token is a sink where its norm exceeds this many medians of the reference set
PANEL = 256  # columns of one panel of the symmetric product


def token_norms(inputs: torch.Tensor) -> torch.Tensor:
    """The norm of each token [tokens] in fp32, from inputs [tokens, in]."""
    return torch.linalg.vector_norm(inputs.float(), dim=-1)


def sink_threshold(norms: torch.Tensor) -> torch.Tensor:
    """The norm above which a token is a sink, from the norms of the reference set's tokens."""
    return SINK_RATIO * norms.median()


class InputStatistics:
    """The statistics of one input, which several linears may share (q, k and v; gate and up).

    `full`: collect the whole Gram matrix, else its diagonal. Sums stay raw until read: one division.
    """

    def __init__(self, name: str, features: int, full: bool, sinks: Sinks, device: torch.device):
        self.name, self.full, self.sinks = name, full, sinks
        shape = (features, features) if full else (features,)
        # the diagonal costs nothing in fp64; the Gram product is where the time goes
        self._rest = torch.zeros(shape, dtype=torch.float32 if full else torch.float64, device=device)
        self._sink = torch.zeros(shape, dtype=torch.float64, device=device)
        self._rest_weight = torch.zeros((), dtype=torch.float64, device=device)
        self._sink_weight = torch.zeros((), dtype=torch.float64, device=device)
        self._sink_count = torch.zeros((), dtype=torch.long, device=device)

    def add(self, inputs: torch.Tensor, weights: torch.Tensor, sink: torch.Tensor) -> None:
        """Adds tokens: inputs [tokens, in] in any float dtype, weights fp32 [tokens], sink bool [tokens].

        Tokens of weight 0 (padding among them) count for nothing and are not sinks.
        """
        counted = weights > 0
        rest, sinks = counted & ~sink, counted & sink
        self._rest_weight += weights[rest].sum(dtype=torch.float64)
        self._sink_weight += weights[sinks].sum(dtype=torch.float64)
        self._sink_count += sinks.sum()
        self._add_rest(scaled(inputs[rest].float(), weights[rest]))
        outliers = scaled(inputs[sinks].double(), weights[sinks].double())
        self._sink += outliers.T @ outliers if self.full else outliers.square().sum(0)

    def _add_rest(self, inputs: torch.Tensor) -> None:
        if not self.full:
            self._rest += inputs.square().sum(0)
            return
        for start in range(0, inputs.shape[1], PANEL):  # the upper triangle alone; `_sums` mirrors it
            panel = inputs[:, start : start + PANEL]
            self._rest[start : start + PANEL, start:].addmm_(panel.T, inputs[:, start:])

    def _sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Σ w x xᵀ of the tokens that are no sinks and of the sinks, in fp64."""
        rest = self._rest.double()
        if self.full:
            rest = rest.triu() + rest.triu(1).T
        return rest, self._sink

    def _combined(self, rest: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
        if self.sinks == Sinks.exclude:
            return rest / self._rest_weight
        return (rest + sink) / (self._rest_weight + self._sink_weight)

    def check(self) -> None:
        """Raises CellError naming the linear where inputs are NaN or infinite or no token counts."""
        weight = self._rest_weight if self.sinks == Sinks.exclude else self._rest_weight + self._sink_weight
        if weight == 0:
            raise CellError(f"{self.name}: no calibration token with a weight above 0 reached it")
        if not (torch.isfinite(self._rest).all() and torch.isfinite(self._sink).all()):
            raise CellError(f"{self.name}: its calibration inputs are NaN or infinite")

    def gram(self) -> torch.Tensor:
        """G, fp64 [in, in], with or without sinks as the option says."""
        return self._combined(*self._sums())

    def diagonal(self) -> torch.Tensor:
        """The diagonal of G, fp64 [in]."""
        rest, sink = self._diagonals()
        return self._combined(rest, sink)

    def _diagonals(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.full:
            return self._rest.diagonal().double(), self._sink.diagonal()
        return self._rest, self._sink

    def damping_basis(self) -> float:
        """The mean of G's diagonal, which damping is a share of; without the sinks under `undamped`."""
        rest, sink = self._diagonals()
        if self.sinks == Sinks.undamped and rest.sum() > 0:
            sink = torch.zeros_like(sink)
        return float(self._combined(rest, sink).mean())

    def sink_report(self) -> dict[str, float]:
        """How many tokens were sinks, and their share of Σ w ‖x‖²."""
        rest, sink = (float(diagonal.sum()) for diagonal in self._diagonals())
        return {"sinks": int(self._sink_count), "sink_energy_share": sink / (rest + sink) if rest + sink else 0.0}

    def relative_errors(self, weight: torch.Tensor, pruned: torch.Tensor) -> dict[str, float | None]:
        """‖WX − ŴX‖² / ‖WX‖² over all tokens and over those that are no sinks, both weights fp32 [out, in]."""
        rest, sink = self._sums()
        change = weight - pruned
        errors = {}
        for key, gram in (("relative_error", rest + sink), ("relative_error_without_sinks", rest)):
            gram = gram.to(weight.dtype)
            energy = quadratic(weight, gram)
            errors[key] = quadratic(change, gram) / energy if energy > 0 else None
        return errors


def scaled(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The tokens times the root of their weights, so that a plain product of the result is the weighted one."""
    return inputs.mul_(weights.sqrt()[:, None])


def quadratic(weight: torch.Tensor, gram: torch.Tensor) -> float:
    """tr(W G Wᵀ)."""
    return float(((weight @ gram) * weight).sum(dtype=torch.float64))
