import pytest
import tiny_models
import torch

from ssgr.models import blocks


def padded(sequences):
    longest = max(map(len, sequences))
    batch = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        batch[row, : len(sequence)] = torch.from_numpy(sequence)
    return batch


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_replaying_the_blocks_is_the_models_own_forward(architecture, attention):
    model = tiny_models.build(architecture, dtype=torch.float64)
    model.set_attn_implementation(attention)
    sequences = tiny_models.sequences(5)
    tolerance = 1e-5 if attention == "eager" else 1e-10  # eager attention takes its softmax in fp32
    hidden, calls = blocks.capture(model, padded(sequences))
    for block, call in zip(blocks.decoder_blocks(model), calls, strict=True):
        hidden = blocks.replay(block, hidden, call)
    decoder = model.get_decoder()
    norm = decoder.norm if hasattr(decoder, "norm") else decoder.final_layer_norm
    logits = model.lm_head(norm(hidden))
    for row, sequence in enumerate(sequences):
        own = model(input_ids=torch.from_numpy(sequence)[None].long()).logits[0]
        torch.testing.assert_close(logits[row, : len(sequence)], own, rtol=tolerance, atol=tolerance)


def test_capture_leaves_the_model_as_it_was():
    model = tiny_models.build("qwen2")
    ids = torch.arange(4, 12)[None]
    before = model(ids).logits
    blocks.capture(model, ids)
    assert torch.equal(model(ids).logits, before)
    assert all("forward" not in vars(block) for block in blocks.decoder_blocks(model))
