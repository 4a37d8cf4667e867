"""How far the pruned model's next-token distributions are from the dense model's, on the dense model's own samples.

KL(dense || pruned) over the full vocabulary at every generated token, teacher-forced. The dense side is kept as final
hidden states: the output embedding is never pruned, so both distributions come from the same matrix.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from ssgr.cache import content_hash, is_sound, locked, remove_damaged, remove_leftovers, write_atomically
from ssgr.evaluation import teacher_forcing
from ssgr.evaluation.accuracy import standard_error
from ssgr.evaluation.held_out import CELLS, HeldOut
from ssgr.evaluation.teacher_forcing import chunks, final_states, length_sorted_batches, output_logits
from ssgr.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ssgr.models.load import LoadedModel


@dataclass
class DenseStates:
    """The dense model's final hidden states of these samples, one safetensors file per batch in `folder`."""

    folder: Path
    batches: list[list[int]]

    def load(self, batch: int, device: torch.device) -> torch.Tensor:
        """[generated tokens of the batch, hidden], in the model's dtype."""
        return load_file(self.file(batch), device=str(device))["states"]

    def missing(self) -> list[int]:
        """The batches whose file is not there, or not as it was written."""
        files = map(self.file, range(len(self.batches)))
        return [batch for batch, file in enumerate(files) if file is None or not is_sound(file)]

    def file(self, batch: int) -> Path | None:
        return next(self.folder.glob(f"states-{batch:05d}-*.safetensors"), None)


@dataclass
class Divergence:
    """`table` is divergence.parquet, one row per held-out sample; `metrics` and `dense_metrics` summarise it."""

    table: pd.DataFrame

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Means over problems of per-token means; kl_balanced weighs the cells of CELLS equally, empty ones apart."""
        table = self.table
        binned = table[[cell in CELLS for cell in zip(table["difficulty"], table["length"], strict=True)]]
        cells = binned.groupby(["difficulty", "length"])["kl"].mean()
        values = {
            "kl": table["kl"].mean(),
            "kl_se": standard_error(table["kl"].to_numpy()),
            "kl_balanced": cells.mean(),
            "nll": table["nll"].mean(),
            "top1_changed": table["top1_changed"].mean(),
        }
        return {**self._named(values), f"{table['task'].iloc[0]}/problems": len(table)}

    @cached_property
    def dense_metrics(self) -> dict[str, float]:
        return self._named({"kl": 0.0, "nll": self.table["nll_dense"].mean(), "top1_changed": 0.0})

    def _named(self, values: dict[str, float]) -> dict[str, float]:
        return {f"{self.table['task'].iloc[0]}/{name}": float(value) for name, value in values.items()}


def dense_states(loaded: "LoadedModel", samples: HeldOut, folder: Path) -> DenseStates:
    """The states of the model as it stands, which must not be pruned yet; files that are there are kept.

    They are kept in the model's own dtype, so that an unchanged model diverges by exactly zero. `folder` is the dense
    evaluation's; the states' own folder in it is named by the samples' token ids.
    """
    ids = [[prompt.tolist(), output.tolist()] for prompt, output in samples.sequences]
    folder = Path(folder) / f"states-{content_hash([ids, teacher_forcing.BATCH_TOKENS, str(loaded.model.dtype)])}"
    states = DenseStates(folder, length_sorted_batches(samples.sequences))
    if states.missing():
        with locked(folder.with_suffix(".lock")):
            remove_leftovers(folder)
            remove_damaged(folder, "states-*.safetensors")
            write_states(loaded.model, samples, states)
    return states


def write_states(model: "PreTrainedModel", samples: HeldOut, states: DenseStates) -> None:
    missing = states.missing()
    with track("dense hidden states", len(missing)) as bar:
        for batch in missing:
            sequences = [samples.sequences[row] for row in states.batches[batch]]
            tensors = {"states": final_states(model, sequences).cpu().contiguous()}
            path = states.folder / f"states-{batch:05d}.safetensors"
            write_atomically(path, lambda path, tensors=tensors: save_file(tensors, path), checked=True)
            bar.advance()


def divergence(loaded: "LoadedModel", samples: HeldOut, states: DenseStates) -> Divergence:
    """Compares the model, pruned in place by now, with its dense states; memory does not grow with the samples."""
    columns = ("kl_sum", "nll_dense", "nll", "top1_changed")
    sums = torch.zeros(len(samples.sequences), len(columns), dtype=torch.float64, device=loaded.device)
    with track("divergence", len(states.batches)) as bar, torch.inference_mode():
        for batch, rows in enumerate(states.batches):
            sequences = [samples.sequences[row] for row in rows]
            after = final_states(loaded.model, sequences)  # under way on the device while a file is read
            before = states.load(batch, loaded.device)
            outputs = [torch.as_tensor(output, dtype=torch.int64) for _, output in sequences]
            targets = torch.cat(outputs).to(loaded.device)
            owner = torch.repeat_interleave(torch.tensor(rows), torch.tensor(list(map(len, outputs))))
            owner = owner.to(loaded.device)
            for part in chunks(len(targets), loaded.model):
                values = compare_tokens(loaded.model, before[part], after[part], targets[part])
                sums.index_add_(0, owner[part], values.double())
            bar.advance()
    table = samples.table.copy()
    for column, values in zip(columns, sums.cpu().numpy().T, strict=True):
        table[column] = values if column == "kl_sum" else values / table["tokens"]
    table["kl"] = table["kl_sum"] / table["tokens"]
    order = ["task", "problem_id", "tokens", "kl", *columns, "correct", "finish_reason", "pass_rate"]
    return Divergence(table[[*order, "difficulty", "length"]])


def compare_tokens(
    model: "PreTrainedModel", before: torch.Tensor, after: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """KL, both negative log-likelihoods of the sampled token, and whether the most likely token changed.

    From hidden states [tokens, hidden] and sampled ids [tokens]; fp32 [tokens, 4], in nats.
    """
    logits = [output_logits(model, given) for given in (before, after)]
    # Every pass over [tokens, vocabulary] costs, so there are few: logits less their largest, then their exponentials
    # in the same memory. The largest is exact in any dtype, and without it sums of exponentials lie near 1.
    (top, likeliest), (top_pruned, likeliest_pruned) = (each.max(-1, keepdim=True) for each in logits)
    dense, pruned = logits[0] - top.float(), logits[1] - top_pruned.float()
    del logits
    at_target, at_target_pruned = (each.gather(1, targets[:, None])[:, 0] for each in (dense, pruned))
    difference = dense - pruned
    mass, mass_pruned = dense.exp_().sum(-1), pruned.exp_().sum(-1)
    log_mass, log_mass_pruned = mass.log(), mass_pruned.log()
    kl = difference.mul_(dense).sum(-1) / mass + (log_mass_pruned - log_mass)
    changed = (likeliest != likeliest_pruned)[:, 0].float()
    return torch.stack([kl, log_mass - at_target, log_mass_pruned - at_target_pruned, changed], 1)
