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
TENSOR_PANEL = 2_048  # the same on tensor cores, which narrow panels leave idle
LONGEST_SUM = 16_384  # tokens that one tensor-core product sums up: longer sums lose digits
HELD = 4_096  # sink tokens that wait as rows until their outer products are summed up
FEW = 8  # sinks that are fewer than an input's features by this stay rows, summed up at every read: a factor costs more


def token_norms(inputs: torch.Tensor) -> torch.Tensor:
    """The norm of each token [tokens] in fp32, from inputs [tokens, in]."""
    # narrow inputs are widened on the way, without a copy
    narrow = inputs.dtype in (torch.bfloat16, torch.float16)
    return torch.linalg.vector_norm(inputs if narrow else inputs.float(), dim=-1, dtype=torch.float32)


def sink_threshold(norms: torch.Tensor) -> torch.Tensor:
    """The norm above which a token is a sink, from the norms of the reference set's tokens; infinite without any."""
    return SINK_RATIO * norms.median() if len(norms) else norms.new_tensor(float("inf"))


class InputStatistics:
    """The statistics of one input, which several linears may share (q, k and v; gate and up).

    `full`: collect the whole Gram matrix, else its diagonal. Sums stay raw until read: one division. `floor`: how many
    tokens besides sinks must be seen for the statistics to be gone by; 0 for an input that every token reaches.
    """

    def __init__(self, name: str, features: int, full: bool, sinks: Sinks, device: torch.device, floor: int = 0):
        self.name, self.full, self.sinks, self.floor = name, full, sinks, floor
        self.tokens = 0  # besides sinks; counted by `check`
        shape = (features, features) if full else (features,)
        # the diagonal costs nothing in fp64; the Gram product is where the time goes
        self._rest = torch.zeros(shape, dtype=torch.float32 if full else torch.float64, device=device)
        self._sink_sum: torch.Tensor | None = None  # fp64, of the shape of the rest's
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None  # what `_sink_diagonal` gives, once it was asked
        self._held: list[torch.Tensor] = []  # sinks that are not in the sum yet, fp64 [tokens, in], weighted
        self._rest_weight = torch.zeros((), dtype=torch.float64, device=device)
        self._sink_weight = torch.zeros((), dtype=torch.float64, device=device)
        self._rest_count = torch.zeros((), dtype=torch.long, device=device)
        self._sink_count = torch.zeros((), dtype=torch.long, device=device)

    def add(self, inputs: torch.Tensor, weights: torch.Tensor, sink: torch.Tensor, uneven: bool = True) -> None:
        """Adds tokens: inputs [tokens, in] in any float dtype, weights fp32 [tokens], sink bool [tokens].

        Tokens of weight 0 (padding among them) count for nothing and are not sinks. `uneven` False promises that no
        weight is other than 0 and 1, which spares half of the work on tensor cores.
        """
        counted = weights > 0
        rest, sinks = counted & ~sink, counted & sink
        outliers = sinks.nonzero().flatten()  # waits for the device, so its largest work comes next
        if on_tensor_cores(inputs):
            self._add_narrow(inputs.masked_fill(~rest[:, None], 0.0), weights if uneven else None)
        else:
            self._add_wide(scaled(inputs[rest].float(), weights[rest]))
        self._held.append(scaled(inputs[outliers].double(), weights[outliers].double()))
        self._kept = None
        if sum(map(len, self._held)) > HELD:
            self._sink_sum = self._summed_sinks()
            self._held.clear()
        self._rest_weight += (weights * rest).sum(dtype=torch.float64)
        self._sink_weight += (weights * sinks).sum(dtype=torch.float64)
        self._rest_count += rest.sum()
        self._sink_count += sinks.sum()

    def _add_wide(self, inputs: torch.Tensor) -> None:
        if not self.full:
            self._rest += inputs.square().sum(0)
            return
        for start in range(0, inputs.shape[1], PANEL):  # the upper triangle alone; `_mirrored` has both
            panel = inputs[:, start : start + PANEL]
            self._rest[start : start + PANEL, start:].addmm_(panel.T, inputs[:, start:])

    def _add_narrow(self, inputs: torch.Tensor, weights: torch.Tensor | None) -> None:
        """bf16 inputs in which whatever does not count is 0; `weights` None: all others weigh 1."""
        if not self.full:
            if weights is None:
                self._rest += torch.linalg.vector_norm(inputs, dim=0, dtype=torch.float32).square()
            else:
                self._rest += scaled(inputs.float(), weights).square().sum(0)
            return
        for first in range(0, len(inputs), LONGEST_SUM):
            tokens = inputs[first : first + LONGEST_SUM]
            heavy = None if weights is None else weights[first : first + LONGEST_SUM]
            for start in range(0, inputs.shape[1], TENSOR_PANEL):
                target = self._rest[start : start + TENSOR_PANEL, start:]
                for part in weighted(tokens[:, start : start + TENSOR_PANEL], heavy):
                    target += narrow_product(part.T, tokens[:, start:])

    def _summed_sinks(self) -> torch.Tensor:
        """Many rows in one product, because the sum is far larger than they are; in place where there is a sum."""
        total = torch.zeros_like(self._rest, dtype=torch.float64) if self._sink_sum is None else self._sink_sum
        if not self._held:
            return total
        rows = torch.cat(self._held)
        return total.addmm_(rows.T, rows) if self.full else total.add_(rows.square().sum(0))

    @property
    def _sink(self) -> torch.Tensor:
        """The sinks' sum in fp64; that of few is not kept, since it would lie beside the factor."""
        total = self._summed_sinks()
        few = self._sink_sum is None and sum(map(len, self._held)) * FEW < total.shape[-1]
        if not (self.full and few):
            self._sink_sum = total
            self._held.clear()
        return total

    def _mirrored(self) -> torch.Tensor:
        """Σ w x xᵀ of the tokens that are no sinks, fp64, in a tensor of its own."""
        return self._rest.triu().add_(self._rest.triu(1).T).double()

    def _weight(self) -> torch.Tensor:
        return self._rest_weight if self.sinks == Sinks.exclude else self._rest_weight + self._sink_weight

    def _combined(self, rest: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
        return (rest if self.sinks == Sinks.exclude else rest + sink) / self._weight()

    def check(self) -> None:
        """Raises CellError naming the linear where inputs are NaN or infinite, or no token counts and one must."""
        # no entry of a sum of outer products is larger than the largest of its diagonal
        finite = [diagonal.isfinite().all().double() for diagonal in self._diagonals()]
        weight, tokens, *finite = torch.stack([self._weight(), self._rest_count.double(), *finite]).tolist()
        self.tokens = int(tokens)
        if weight == 0 and not self.floor:
            which = "but attention sinks (pruner.sinks=exclude) " if self.sinks == Sinks.exclude else ""
            raise CellError(f"{self.name}: no calibration token {which}with a weight above 0 reached it")
        if not all(finite):
            raise CellError(f"{self.name}: its calibration inputs are NaN or infinite")

    @property
    def scarce(self) -> bool:
        """Whether fewer tokens were seen than the floor asks for; known once `check` has counted them."""
        return self.tokens < self.floor

    def gram(self) -> torch.Tensor:
        """G, fp64 [in, in], with or without sinks as the option says."""
        total = self._mirrored()
        if self.sinks != Sinks.exclude:
            total += self._sink  # in place: at 18,944 inputs each copy takes 2.9 GB
        return total.div_(self._weight())

    def diagonal(self) -> torch.Tensor:
        """The diagonal of G, fp64 [in]."""
        rest, sink = self._diagonals()
        return self._combined(rest, sink)

    def _diagonals(self) -> tuple[torch.Tensor, torch.Tensor]:
        rest = self._rest.diagonal().double() if self.full else self._rest
        return rest, self._sink_diagonal()[0]

    def _sink_diagonal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The diagonal of the sinks' sum, fp64 [in], and its trace [], both kept in place of a matrix that is not."""
        if not self.full:
            return self._sink, self._sink.sum()
        if self._kept is None:
            diagonal = self._sink.diagonal()
            self._kept = diagonal.clone(), diagonal.sum()  # a copy's sum may end in another digit
        return self._kept

    def damping_basis(self) -> float:
        """The mean of G's diagonal, which damping is a share of; without the sinks under `undamped`."""
        return float(self.damping_diagonal().mean())

    def damping_diagonal(self) -> torch.Tensor:
        """The diagonal of G, fp64 [in], which damping per channel is a share of; without the sinks under `undamped`."""
        rest, sink = self._diagonals()
        if self.sinks == Sinks.undamped and rest.sum() > 0:
            sink = torch.zeros_like(sink)
        return self._combined(rest, sink)

    def sink_report(self) -> dict[str, float]:
        """How many tokens were sinks, and their share of Σ w ‖x‖²."""
        energies = self._diagonals()[0].sum(), self._sink_diagonal()[1]
        rest, sink, count = torch.stack([*energies, self._sink_count.double()]).tolist()
        return {"sinks": int(count), "sink_energy_share": sink / (rest + sink) if rest + sink else 0.0}

    def relative_errors(self, weight: torch.Tensor, pruned: torch.Tensor) -> dict[str, float | None]:
        """‖WX − ŴX‖² / ‖WX‖² over all tokens and over those that are no sinks, both weights fp32 [out, in]."""
        rest, sink = self._mirrored(), self._sink
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


def on_tensor_cores(inputs: torch.Tensor) -> bool:
    """Whether products of these inputs run on tensor cores that take bf16 and give fp32."""
    return inputs.is_cuda and inputs.dtype == torch.bfloat16 and torch.version.cuda is not None


def narrow_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product of two bf16 matrices in fp32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def weighted(inputs: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
    """bf16 matrices whose sum is the tokens times their weights: a second one holds what the first had to round off."""
    if weights is None:
        return [inputs]
    exact = inputs.float() * weights[:, None]
    high = exact.to(inputs.dtype)
    return [high, (exact - high).to(inputs.dtype)]


def quadratic(weight: torch.Tensor, gram: torch.Tensor) -> float:
    """tr(W G Wᵀ)."""
    return float(((weight @ gram) * weight).sum(dtype=torch.float64))
