"""Where the weights of a model lie that was loaded: in the pages of its files, once."""

from pathlib import Path

import torch

from ssgr.models.blocks import decoder_blocks, model_linears
from ssgr.models.load import load_model

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_held_twice(model_folder, config_for, tmp_path):
    loaded = load_model(config_for(model_folder, offload=True), CPU, tmp_path)
    assert not any("forward" in vars(block) for block in decoder_blocks(loaded.model))


def test_weights_of_the_models_own_dtype_are_the_files_pages(model_folder, config_for, tmp_path):
    """Mapped, copied where they are written: a second copy in memory would cost as much as the model."""
    loaded = load_model(config_for(model_folder, dtype="float32"), CPU, tmp_path)
    file = str(model_folder / "model.safetensors")
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    spans = [[int(end, 16) for end in addresses.split("-")] for addresses in mapped]
    for linear in model_linears(loaded.model).values():
        assert any(start <= linear.weight.data_ptr() < end for start, end in spans)
