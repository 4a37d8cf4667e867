"""Blocks that come to the device one at a time. The CPU stands in for the accelerator: they are copied there too."""

from contextlib import contextmanager

import pytest
import tiny_models
import torch

from ssgr.config import AlphaPruningConfig, OwlConfig, Propagation, Tail
from ssgr.engines.base import Sampling
from ssgr.engines.decoding.loop import decode_batch
from ssgr.evaluation.teacher_forcing import final_states
from ssgr.models import offload
from ssgr.models.blocks import capture, decoder_blocks, model_linears
from ssgr.models.load import weights_fingerprint
from ssgr.models.offload import VisitingForward, offload_blocks, resident
from ssgr.pruning import activations
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

CPU = torch.device("cpu")
SEQUENCES = tiny_models.sequences(12)


def pair(architecture):
    """The same model twice, the second with its blocks away."""
    both = [tiny_models.loaded(tiny_models.build(architecture)) for _ in range(2)]
    offload_blocks(both[1].model, CPU)
    return both


def storages(module):
    return [parameter.data_ptr() for parameter in module.parameters()]


@pytest.fixture
def visits(monkeypatch):
    """For every visit of a block how many of them were on the device then."""
    counts, here = [], set()
    plain = VisitingForward.visit

    @contextmanager
    def visit(self, changing=False):
        with plain(self, changing):
            comes = self not in here
            if comes:
                here.add(self)
                counts.append(len(here))
            try:
                yield
            finally:
                if comes:
                    here.remove(self)

    monkeypatch.setattr(VisitingForward, "visit", visit)
    return counts


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma2", "opt", "qwen3_moe"])
@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_the_same_bits_with_one_block_on_the_device_at_a_time(architecture, name, pruner_config, uniform, visits):
    both = pair(architecture)
    before = storages(both[1].model)
    for loaded in both:
        prune_model(loaded, SEQUENCES, None, pruner_config(name), uniform, Sparsity(0.5))
    weights, offloaded = (model_linears(loaded.model) for loaded in both)
    assert all(torch.equal(weights[name].weight, offloaded[name].weight) for name in weights)
    assert all((linear.weight == 0).any() for linear in offloaded.values())
    assert storages(both[1].model) == before  # what was pruned came back to where it had been
    assert visits == [1] * len(decoder_blocks(both[1].model))  # each came once, whatever was done with it


@pytest.mark.parametrize(
    "allocation", [OwlConfig("owl", 5.0, 0.08), AlphaPruningConfig("alphapruning", 0.3, Tail.peak)]
)
def test_allocations_score_blocks_on_the_device(allocation, pruner_config, visits):
    both = pair("qwen2")
    config = pruner_config("wanda", propagation=Propagation.dense)
    reports = [prune_model(loaded, SEQUENCES, None, config, allocation, Sparsity(0.5)) for loaded in both]
    assert [row["target"] for row in reports[0].rows] == [row["target"] for row in reports[1].rows]
    assert weights_fingerprint(both[0].model) == weights_fingerprint(both[1].model)
    assert visits == [1] * 6  # three blocks are scored, then pruned


def test_forward_passes_and_generation_work_as_they_are(visits):
    both = pair("qwen2")
    given = [(sequence[:4], sequence[4:]) for sequence in SEQUENCES]
    dense, offloaded = (final_states(loaded.model, given) for loaded in both)
    assert torch.equal(dense, offloaded)
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=5)
    made = [decode_batch(each.model, [[5, 6, 7]], [1], sampling, [2], 128) for each in both]
    assert made[0] == made[1]
    assert set(visits) == {1}


def test_capturing_the_blocks_arguments_brings_none(visits):
    both = pair("mistral")
    ids = torch.arange(3, 15)[None]
    assert torch.equal(*(capture(loaded.model, ids)[0] for loaded in both))
    assert not visits
    assert isinstance(decoder_blocks(both[1].model)[0].forward, VisitingForward)  # it stands where it stood


def test_what_is_written_stays_only_where_it_was_said_to_change():
    _, loaded = pair("qwen2")
    block = decoder_blocks(loaded.model)[0]
    weight = block.mlp.up_proj.weight
    with resident(block):
        weight.data.fill_(1.0)
    assert not (weight == 1.0).any()
    with resident(block, changing=True):
        weight.data.fill_(1.0)
    assert (weight == 1.0).all()


def test_a_block_that_fails_leaves_the_device():
    _, loaded = pair("qwen2")
    block = decoder_blocks(loaded.model)[1]
    before = storages(block)
    with pytest.raises(RuntimeError, match="broken"), resident(block, changing=True):
        block.mlp.up_proj.weight.data.fill_(1.0)
        raise RuntimeError("broken")
    assert storages(block) == before and not (block.mlp.up_proj.weight == 1.0).any()


@pytest.mark.parametrize("free, device", [(10_000, "cuda"), (7_600, "cpu")])
def test_hidden_states_wait_in_host_memory_where_half_of_the_free_does_not_hold_them(monkeypatch, free, device):
    monkeypatch.setattr(activations, "free_on_card", lambda device: free)
    model = tiny_models.build("qwen2")
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert activations.waiting_place(model, 32).type == device  # 32 tokens x 32 numbers x 4 bytes


def test_free_memory_of_a_card_counts_what_the_allocator_holds_unused(monkeypatch):
    for name, value in (("memory_reserved", 70), ("memory_allocated", 50), ("mem_get_info", (100, 1000))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert offload.free_on_card(torch.device("cuda")) == 120
