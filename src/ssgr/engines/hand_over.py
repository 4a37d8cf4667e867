"""The loaded model's weights on their way into running vLLM processes: on the card itself, or through host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssgr.engines import card_memory
from ssgr.engines.child import Child, ChildFailed, finish
from ssgr.engines.shared_memory import written_parts
from ssgr.errors import first_line
from ssgr.progress import say

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ssgr.engines.vllm import Server

RIGID = ("AttributeError", "NotImplementedError")  # what a vLLM says that takes no weights while it runs


def put_in(model: PreTrainedModel, server: Server, fingerprint: str) -> str | None:
    """Puts the model's linears, which have this fingerprint, into the running children; why not, where these take none.

    Experts are never put in: once loaded, vLLM from 0.20 on may lay them out for its kernels (up before gate), and
    what is loaded again is written in the checkpoint's layout, to be read wrong in silence (its issue 42821).
    """
    from ssgr.models.blocks import model_linears
    from ssgr.models.experts import has_experts

    if has_experts(model):
        return "a mixture of experts"
    weights = {f"{name}.weight": linear.weight.data for name, linear in model_linears(model).items()}
    try:
        served = on_card(weights, server, fingerprint)
        through_host(weights, [child for child in server.children if child not in served])
    except ChildFailed as error:
        if not any(kind in str(error) for kind in RIGID):
            raise
        return str(error)
    return None


def on_card(weights: dict[str, Tensor], server: Server, fingerprint: str) -> list[Child]:
    """Lets the children on the model's card read its weights there; those that have. Tried once where it cannot be.

    Whatever goes wrong on this way says nothing of the other one. Weights that wait in host memory (model.offload) are
    not there to be read.
    """
    if not all(weight.is_cuda for weight in weights.values()):
        return []
    try:
        shared = [card_memory.handles(weights) for _ in server.near]  # all, before any child is asked
        for child, handles in zip(server.near, shared, strict=True):
            child.send("take", handles=handles, fingerprint=fingerprint)
        errors = [error for child in server.near if (error := failure(child))]
        if errors:
            raise errors[0]
    except (RuntimeError, ChildFailed) as error:
        say(f"weights on this card are not shared between processes ({first_line(error)}): they go through the host")
        server.near = []
    return server.near


def failure(child: Child) -> ChildFailed | None:
    """What the child answers where it could not do what it was asked to; each is heard, so that none lags behind."""
    try:
        finish([child])
    except ChildFailed as error:
        return error
    return None


def through_host(weights: dict[str, Tensor], children: Sequence[Child]) -> None:
    """While one part is read the next is written: neither waits for the other's half of the way."""
    if not children:
        return
    with written_parts(weights) as parts:
        reading: Sequence[Child] = ()
        for path, places in parts:
            finish(reading)
            for child in children:
                child.send("load", path=path, places=places)
            reading = children
        finish(reading)
