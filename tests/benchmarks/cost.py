"""What do generating, pruning and comparing cost with weights of the real shapes, and what is a study of them then?

    python tests/benchmarks/cost.py --shape qwen2_7b --device cuda --out 7b.json     # once for each shape
    python tests/benchmarks/cost.py --table 1_5b.json 7b.json 14b.json               # the README's table

The weights are random, which changes no time: every completion runs to its cap. Generation is measured in the middle of
completions of --new-tokens: their prompts hold what would stand before, and each is continued by --part tokens, by as
many rows as the engine's keys and values have room for. It is the difference between two calls, so that neither reading
prompts nor the call's start is in it. Pruning and divergence run on --blocks decoder blocks and count for all. --table
states its assumptions, which are options. Writes JSON as it goes; vLLM's log lies beside it. On a CPU: --shape tiny.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost_blocks import PROMPT, comparing, pruning, timed
from cost_table import add_assumptions, measured_lines, print_table
from engines import composed
from transformers import AutoModelForCausalLM, Qwen2Config

from ssgr.engines.child import Child
from ssgr.engines.hand_over import put_in
from ssgr.engines.vllm import ENVIRONMENT, Server
from ssgr.models.load import LoadedModel, weights_fingerprint
from ssgr.progress import say
from ssgr.stages import device_name

LEAD = 32  # tokens that a row has made before the measured part begins
ROOM = 0.97  # of the cache: what is beyond it would be thrown out and computed again


@dataclass(frozen=True)
class Shape:
    hidden: int
    mlp: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    def config(self, blocks: int | None = None) -> Qwen2Config:
        return Qwen2Config(
            architectures=["Qwen2ForCausalLM"],
            dtype="bfloat16",
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=blocks or self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=131_072,
        )


SHAPES = {
    "qwen2_1_5b": Shape(1536, 8960, 28, 12, 2, 151_936, tied=True),
    "qwen2_7b": Shape(3584, 18_944, 28, 28, 4, 152_064, tied=False),
    "qwen2_14b": Shape(5120, 13_824, 48, 40, 8, 152_064, tied=False),
    "tiny": Shape(64, 160, 4, 4, 2, 512, tied=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="what was measured, as JSON")
    parser.add_argument(
        "--new-tokens", type=numbers(","), default=(2048, 8192), help="lengths of completions: 2048,8192"
    )
    parser.add_argument("--part", type=int, default=512, help="tokens that each row really makes of a completion")
    parser.add_argument(
        "--rows", type=int, help="completions at a time at most (engine.max_num_seqs; default: its own)"
    )
    parser.add_argument("--gpu-memory-utilization", type=float, help="default: the engine option's")
    budgets = ((131_072, 2048), (1_000_000, 8192))
    parser.add_argument(
        "--calibration", type=numbers("x"), nargs="+", default=budgets, help="TOKENSxLENGTH of each set"
    )
    parser.add_argument("--compared", type=int, default=131_072, help="tokens whose divergence is measured")
    parser.add_argument("--blocks", type=int, default=2, help="decoder blocks to prune, at least 2")
    parser.add_argument("--table", type=Path, nargs="+", help="JSON files: print what a study costs")
    add_assumptions(parser)
    given = parser.parse_args()
    if given.table:
        return print_table([json.loads(path.read_text()) for path in given.table], given)
    if not given.shape or not given.out or given.blocks < 2:
        parser.error("give --shape and --out (and at least 2 --blocks), or --table")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    print("\n".join(measured_lines(measure(given))))


def numbers(separator: str) -> Callable[[str], tuple[int, ...]]:
    return lambda text: tuple(int(number) for number in text.split(separator))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All of one shape; `--out` is written anew after each part."""
    shape, device = SHAPES[given.shape], torch.device(given.device)
    with torch.device("meta"):
        parameters = sum(tensor.numel() for tensor in AutoModelForCausalLM.from_config(shape.config()).parameters())
    found = {"shape": given.shape, "parameters": parameters, "blocks": shape.blocks, "card": device_name(device)}
    found |= {"prompt_tokens": PROMPT, "measured_blocks": given.blocks}
    if device.type == "cuda":
        found["card_bytes"] = torch.cuda.get_device_properties(device).total_memory
    for package in ("torch", "transformers", "vllm"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)

    def keep(**parts: Any) -> None:
        found.update(parts)
        given.out.write_text(json.dumps(found, indent=2) + "\n")

    with running_engine(shape, given) as (child, start):
        if child:
            keep(engine=start, generation=generation(child, shape, given, start))
        loaded = random_model(shape, given.blocks, device)
        if child:
            keep(handover_seconds_per_block=handover(child, loaded) / given.blocks)
    keep(pruning=pruning(loaded, given))
    keep(divergence=comparing(loaded, given))
    return found


@contextmanager
def running_engine(shape: Shape, given: argparse.Namespace) -> Iterator[tuple[Child | None, dict[str, Any]]]:
    """A child with vLLM and random weights of all blocks, and what its start came to; None where vLLM is missing."""
    if find_spec("vllm") is None:
        say("vLLM is not installed: generation is not measured")
        yield None, {}
        return
    config, log = composed(["engine=vllm"]).engine, given.out.with_suffix(".log")
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shape.config().save_pretrained(folder)
        options = {
            "model": folder,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": "bfloat16",
            "gpu_memory_utilization": given.gpu_memory_utilization or config.gpu_memory_utilization,
            "max_num_seqs": given.rows or config.max_num_seqs,
            "max_model_len": -(-(max(given.new_tokens) + PROMPT) // 1024) * 1024,
            "enforce_eager": config.enforce_eager,
        }
        say(f"starting vLLM with random weights: a minute or two; its log: {log}")
        child = Child("ssgr.engines.vllm_child", log, ENVIRONMENT)
        try:
            seconds, _ = timed(partial(ask, child, "start", options=options))
            room = re.search(r"GPU KV cache size: ([\d,]+) tokens", log.read_text())
            start = {name: options[name] for name in ("gpu_memory_utilization", "max_num_seqs")}
            start |= {"start_seconds": seconds, "cache_tokens": int(room[1].replace(",", "")) if room else None}
            yield child, start
        finally:
            child.close()


def generation(child: Child, shape: Shape, given: argparse.Namespace, start: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each length of completions: tokens per second in their middle, and of reading prompts."""
    found = []
    for length in given.new_tokens:
        part = min(given.part, length)
        before = PROMPT + (length - part) // 2
        rows = start["max_num_seqs"]
        if start["cache_tokens"]:
            rows = max(1, min(rows, int(ROOM * start["cache_tokens"]) // (before + part)))
        prompts = np.random.default_rng(0).integers(0, shape.vocabulary, (rows, before - LEAD)).tolist()
        say(f"completions of {length} tokens: {rows} rows, prompts of {before - LEAD} tokens are read")
        reading, _ = timed(generate, child, prompts, 1)
        say(f"read in {reading:.1f} s; {part} tokens of each row are made")
        short, fewer = timed(generate, child, prompts, LEAD)
        whole, more = timed(generate, child, prompts, LEAD + part)
        row = {"new_tokens": length, "rows": rows, "part": part, "seconds": whole - short, "tokens": more - fewer}
        row |= {"tokens_per_second": (more - fewer) / (whole - short)}
        found.append(row | {"prompt_tokens_per_second": rows * (before - LEAD) / reading})
    return found


def generate(child: Child, prompts: list[list[int]], new_tokens: int) -> int:
    """How many tokens were made."""
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": new_tokens, "ignore_eos": True, "stop_token_ids": []}
    parts = ask(child, "generate", prompts=prompts, seeds=list(range(len(prompts))), sampling=sampling, repetition=None)
    return sum(len(output_ids) for _, part in parts for _, output_ids, _ in part)


def ask(child: Child, request: str, **arguments: Any) -> list[Any]:
    """All parts of the answer; ChildFailed and ChildDied as they come: the log says more."""
    child.send(request, **arguments)
    parts = []
    while True:
        kind, payload = child.receive()
        if kind == "done":
            return parts
        parts.append(payload)


def random_model(shape: Shape, blocks: int, device: torch.device) -> LoadedModel:
    """Random weights in bf16: the embeddings and the output whole, and so many decoder blocks."""
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(shape.config(blocks), dtype=torch.bfloat16)
    return LoadedModel(model.eval().requires_grad_(False), None, "random", "", "", None, 131_072, device)


def handover(child: Child, loaded: LoadedModel) -> float:
    """Seconds to bring the model's linears into the engine, as a cell does; the second time, when all is imported."""
    server = Server({}, 0, None, children=[child], near=[child])

    def bring() -> None:
        put_in(loaded.model, server, weights_fingerprint(loaded.model))

    bring()
    return timed(bring)[0]


if __name__ == "__main__":
    main()
