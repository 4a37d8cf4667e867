"""Tensors through nameless memory: whole and in order whatever the size of a part, and nothing is left behind."""

import os
import subprocess
import sys

import pytest
import torch

from ssgr.engines.shared_memory import read_part, written_parts


@pytest.fixture
def tensors():
    made = {f"w{n}": torch.randn(n, 7, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(1, 6)}
    return made | {"transposed": torch.arange(6.0).view(2, 3).t()}


@pytest.mark.parametrize(("part_bytes", "parts"), [(1, 6), (160, 3), (2**20, 1)])
def test_every_tensor_arrives_once(tensors, part_bytes, parts):
    arrived = []
    with written_parts(tensors, part_bytes) as written:
        for path, places in written:
            arrived.append({name: tensor.clone() for name, tensor in read_part(path, places)})
    assert len(arrived) == parts
    assert [name for part in arrived for name in part] == list(tensors)
    for name, tensor in (item for part in arrived for item in part.items()):
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, tensors[name])


def test_a_part_stays_while_the_next_is_written_and_until_the_end(tensors):
    with written_parts(tensors, 1) as parts:
        seen, part = [], next(parts)
        while part:
            following = next(parts, None)  # is written now
            seen += [(name, tensor.clone()) for name, tensor in read_part(*part)]
            part = following
    assert [name for name, _ in seen] == list(tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in seen)


def test_another_process_reads_it_and_writes_only_its_own_copy():
    script = (
        "import sys; from ssgr.engines.shared_memory import read_part\n"
        "((name, tensor),) = read_part(sys.argv[1], [('w', 'float32', [2, 2], 0)])\n"
        "print(tensor.tolist()); tensor.zero_()"
    )
    with written_parts({"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}) as parts:
        ((path, places),) = parts
        said = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
        assert said.strip() == "[[1.0, 2.0], [3.0, 4.0]]"
        assert next(read_part(path, places))[1].sum() == 10


def test_nothing_stays_open():
    before = os.listdir("/proc/self/fd")
    with written_parts({"w": torch.ones(3)}) as parts:
        assert len(list(parts)) == 1
    assert os.listdir("/proc/self/fd") == before
