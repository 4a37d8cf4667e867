"""The room as a cell uses it: a real model generates, is evaluated, is changed in place, and diverges."""

import torch
from evaluation_fixtures import make_config, make_loaded, make_template, write_problems
from transformers import Qwen2Config, Qwen2ForCausalLM

from ssgr.config import EngineConfig
from ssgr.engines.hf import HfEngine
from ssgr.evaluation.dense import dense
from ssgr.evaluation.divergence import dense_states, divergence
from ssgr.evaluation.held_out import held_out


def test_from_the_dense_evaluation_to_the_divergence(tmp_path):
    template = make_template()
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    settings = Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=len(template.tokenizer), initializer_range=0.2)
    loaded = make_loaded(template, Qwen2ForCausalLM(settings).to(torch.bfloat16).eval().requires_grad_(False))
    write_problems(tmp_path / "problems.jsonl", 12)
    config = make_config(tmp_path / "problems.jsonl", temperature=1.0, top_p=1.0, max_new_tokens=40)

    def evaluation():
        return dense(HfEngine(EngineConfig("hf", 5), loaded), loaded, template, config, 9, tmp_path / "cache")

    made, read = evaluation(), evaluation()
    assert made.accuracy.samples.equals(read.accuracy.samples) and len(read.accuracy.samples) == 18
    samples = held_out(read.accuracy)
    assert [len(output) for _, output in samples.sequences] == samples.table["tokens"].tolist()
    assert [prompt.tolist() for prompt, _ in samples.sequences] == [
        template.prompt_ids(f"What is {i} plus {3 * i}?") for i in range(9)
    ]
    states = dense_states(loaded, samples, read.folder)
    assert divergence(loaded, samples, states).metrics["jsonl/kl"] == 0.0
    loaded.model.model.layers[0].mlp.down_proj.weight[:, ::2] = 0
    result = divergence(loaded, samples, dense_states(loaded, samples, read.folder))
    assert result.metrics["jsonl/kl"] > 0 and len(result.table) == 9
    # samples drawn at temperature 1 have about the model's own entropy as their negative log-likelihood
    assert 0 < result.dense_metrics["jsonl/nll"] < torch.log(torch.tensor(float(settings.vocab_size))) + 1
