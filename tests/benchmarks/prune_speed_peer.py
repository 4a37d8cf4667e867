"""SparseGPT and Wanda of llm-compressor 0.14 on the same weights and tokens, where that package is installed."""

import tempfile
from importlib.util import find_spec

import numpy as np
import torch
from torch.utils.data import DataLoader

from ssgr.models.load import LoadedModel
from ssgr.pruning.sparsity import Sparsity

PEERS = {"llmcompressor": ("sparsegpt", "wanda")}  # package and which pruners it has


def check_installed(peer: str) -> None:
    if find_spec(peer) is None:
        raise SystemExit(f"--peer {peer}: the package is not installed; pip install '{peer}==0.14.*' would help")


def prune_by_peer(
    loaded: LoadedModel, sequences: list[np.ndarray], pruner: str, sparsity: Sparsity, dense: bool = False
) -> None:
    """Prunes the model in place, on the card it lies on, by the package's own options but for these.

    Activations stay on that card, where the package would move them to the host and back. One sequence at a time and
    eager attention are its own ways. Its n:m counts the pruned weights of m. `dense`: calibrated on what the dense
    blocks give.
    """
    from compressed_tensors.offload import remove_dispatch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from loguru import logger

    logger.remove()  # two lines for every linear
    structure = "0:0" if sparsity.n is None else f"{sparsity.m - sparsity.n}:{sparsity.m}"
    options = {"sparsity": sparsity.value, "mask_structure": structure, "targets": ["Linear"]}
    options["ignore"] = ["re:.*lm_head"]
    if pruner == "sparsegpt":
        recipe = SparseGPTModifier(**options, block_size=128, dampening_frac=0.01)
    else:
        recipe = WandaPruningModifier(**options)
    batches = [torch.from_numpy(ids).long()[None] for ids in sequences]
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in batches]
    with tempfile.TemporaryDirectory() as folder:
        loaded.model.config.save_pretrained(folder)  # the package reads it from where the model says it came from
        came_from, loaded.model.config._name_or_path = loaded.model.config._name_or_path, folder
        oneshot(
            model=loaded.model,
            processor=loaded.tokenizer or object(),  # would only make the batches that are already there
            dataset=DataLoader(batches, batch_size=None),
            recipe=recipe,
            pipeline="sequential",
            sequential_offload_device=str(loaded.device),
            propagate_error=not dense,
        )
        loaded.model.config._name_or_path = came_from
        remove_dispatch(loaded.model)  # which it has put in the place of every module's parameters
