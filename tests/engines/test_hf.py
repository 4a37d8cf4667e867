"""The hf engine against transformers' own generation and forward pass, row by row and without padding."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from ssgr.config import EngineConfig
from ssgr.engines.base import ENGINES, Sampling
from ssgr.engines.decoding import loop
from ssgr.errors import CellError, UserError

VOCABULARY = 97
SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=VOCABULARY,
    max_position_embeddings=128,
    initializer_range=0.5,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
ARCHITECTURES = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2_eager": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, attn_implementation="eager")),
    "qwen2_window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=12, max_window_layers=1)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "mistral_window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=12)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=12)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=12)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.2)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **EXPERTS, shared_expert_intermediate_size=40)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8)),
}


def make_loaded(build=ARCHITECTURES["qwen2"], context: int = 128):
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    tokenizer = SimpleNamespace(eos_token_id=None)
    return SimpleNamespace(model=model, tokenizer=tokenizer, device=torch.device("cpu"), context=context)


def make_engine(loaded, batch_size=None):
    return ENGINES.get("hf")(EngineConfig("hf", batch_size), loaded)


def make_prompts(count: int, shortest: int = 3, longest: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="module")
def loaded():
    return make_loaded()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_transformers_generate_row_by_row(architecture):
    loaded = make_loaded(ARCHITECTURES[architecture])
    prompts = make_prompts(9)
    outputs = make_engine(loaded).generate(prompts, [0] * 9, Sampling(0.0, 1.0, 30))
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = loaded.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=30)
        assert output.output_ids == expected[0, len(prompt) :].tolist()


def test_a_row_does_not_depend_on_its_neighbours(loaded, monkeypatch):
    prompts, seeds, sampling = make_prompts(20), list(range(100, 120)), Sampling(0.9, 0.95, 40)
    together = make_engine(loaded).generate(prompts, seeds, sampling)
    assert len({len(generation.output_ids) for generation in together}) > 2, "rows must finish at different steps"
    assert make_engine(loaded, batch_size=1).generate(prompts, seeds, sampling) == together
    monkeypatch.setattr(loop, "PREFILL_TOKENS", 64)
    monkeypatch.setattr(loop, "GROWTH", 2)
    assert make_engine(loaded, batch_size=7).generate(prompts[::-1], seeds[::-1], sampling) == together[::-1]
    assert make_engine(loaded).generate(prompts, [seed + 1 for seed in seeds], sampling) != together


def test_a_longer_cap_only_continues_a_row(loaded):
    prompts, seeds = make_prompts(12), list(range(12))
    short = make_engine(loaded).generate(prompts, seeds, Sampling(1.0, 1.0, 5))
    long = make_engine(loaded).generate(prompts, seeds, Sampling(1.0, 1.0, 30))
    for before, after in zip(short, long, strict=True):
        assert after.output_ids[: len(before.output_ids)] == before.output_ids


def test_end_tokens_of_generation_config_and_tokenizer_stop_a_row():
    loaded = make_loaded()
    loaded.model.generation_config.eos_token_id = [2, 7]
    loaded.tokenizer.eos_token_id = 11
    outputs = make_engine(loaded).generate(make_prompts(30), list(range(30)), Sampling(1.5, 1.0, 60))
    reasons = set()
    for output in outputs:
        ended = [position for position, token in enumerate(output.output_ids) if token in (2, 7, 11)]
        reasons.add(output.finish_reason)
        if output.finish_reason == "stop":
            assert ended == [len(output.output_ids) - 1]
        else:
            assert (output.finish_reason, ended, len(output.output_ids)) == ("length", [], 60)
    assert reasons == {"stop", "length"}


def test_the_context_lowers_a_rows_cap():
    loaded = make_loaded(context=24)
    loaded.model.generation_config.eos_token_id = None
    prompts = make_prompts(6)
    outputs = make_engine(loaded).generate(prompts, [0] * 6, Sampling(0.0, 1.0, 10))
    assert [len(output.output_ids) for output in outputs] == [min(10, 24 - len(prompt)) for prompt in prompts]
    assert {output.finish_reason for output in outputs} == {"length"}
    with pytest.raises(UserError, match="prompt 1 has 24 tokens"):
        make_engine(loaded).generate([[3], [3] * 24], [0, 0], Sampling(0.0, 1.0, 10))


def test_nothing_asked_gives_nothing(loaded):
    assert make_engine(loaded).generate([], [], Sampling(0.0, 1.0, 10)) == []


def test_reports_every_token_and_row(loaded):
    reports = []
    outputs = make_engine(loaded, batch_size=8).generate(
        make_prompts(20), list(range(20)), Sampling(1.0, 1.0, 40), lambda *report: reports.append(report)
    )
    assert sum(tokens for tokens, _ in reports) == sum(len(output.output_ids) for output in outputs)
    assert sum(finished for _, finished in reports) == 20


def test_logits_that_are_not_finite_are_one_line(loaded):
    broken = make_loaded()
    broken.model.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(CellError, match="not finite"):
        make_engine(broken).generate(make_prompts(3), [0] * 3, Sampling(1.0, 0.9, 5))


def test_the_model_keeps_its_attention(loaded):
    assert loaded.model.config._attn_implementation == "sdpa"
    make_engine(loaded).generate(make_prompts(3), [0] * 3, Sampling(1.0, 0.9, 5))
    assert loaded.model.config._attn_implementation == "sdpa"


def test_naming_engines_needs_no_torch():
    code = "import sys; from ssgr.engines.base import ENGINES; print('hf' in ENGINES.names(), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["True", "False"]
