"""Does vLLM read the pruned models of every architecture that is pruned here? Needs a CUDA device.

    python tests/benchmarks/vllm_architectures.py
    python tests/benchmarks/vllm_architectures.py qwen3_moe gemma2 --dtype float32 --tokens 96

Random weights of small shapes, pruned to 50 % by SparseGPT on the card. Greedy completions of the dense and the pruned
model, by vLLM and by the hf engine: equal, differing first at a near tie of the two best logits (engines.py), or
different; the pruned weights once as a cell hands them to a running vLLM (mixtures of experts: a new start), once as a
vLLM reads them that starts with the saved checkpoint. In float32 near ties are rare; bfloat16 is what cells compute in.
Prints a line for every architecture, also where it failed, and exits with 1 then.
"""

import argparse
import shutil
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engines import agreement, composed
from offload_memory import TOKENIZER

from ssgr.engines.base import ENGINES, Sampling
from ssgr.engines.vllm import VllmEngine, close_server
from ssgr.models.blocks import model_linears
from ssgr.models.files import BUNDLED_MODEL
from ssgr.models.load import DTYPES, load_model
from ssgr.models.save import save_checkpoint
from ssgr.progress import say
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import ARCHITECTURES, build, sequences

SHAPE = {  # heads and rows of a size that every attention kernel takes; windows shorter than a completion
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.05,
}
MORE = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 32, "word_embed_proj_dim": 256, "ffn_dim": 512}
MORE |= {"moe_intermediate_size": 128, "shared_expert_intermediate_size": 256}
ECHO = 20.0  # how much smaller tied embeddings are made, and the last norm larger
REFUSED = ("qwen2_window",)  # vLLM: windows in all layers or in none
CALIBRATION, PROMPTS, LONGEST = 128, 48, 48  # sequences of either kind, and tokens of a sequence


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in ARCHITECTURES if name not in REFUSED]
    parser.add_argument("architectures", nargs="*", default=known, help=", ".join(known))
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of a completion")
    parser.add_argument("--memory", type=float, default=0.06, help="of the card, for two copies: others may use it too")
    parser.add_argument("--logs", type=Path, default=Path("vllm-logs"))
    given = parser.parse_args()
    given.logs.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in given.architectures:
        with tempfile.TemporaryDirectory(prefix="ssgr-") as folder:
            try:
                print(f"{name}, {given.dtype}: {line(check(name, given, Path(folder)))}", flush=True)
            except Exception as error:  # the others are tried all the same
                traceback.print_exc()
                print(f"{name}, {given.dtype}: FAILED: {error}", flush=True)
                failed += 1
            finally:
                close_server()
    return int(failed > 0)


def check(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_model(name, given.dtype, folder / "dense")
    options = ["model=hub", f"model.path={folder / 'dense'}", f"model.dtype={given.dtype}", "pruner=sparsegpt"]
    vllm_options = ["engine=vllm", "engine.enforce_eager=true", "engine.replicas_per_card=2"]
    config = composed([*options, *vllm_options, f"engine.gpu_memory_utilization={given.memory}"])
    loaded = load_model(config.model, torch.device("cuda"), folder / "cache")
    logs = given.logs / f"{name}-{given.dtype}"
    vllm = VllmEngine(config.engine, loaded, longest=given.tokens, log_folder=logs)
    hf = ENGINES.get("hf")(composed(["engine=hf"]).engine, loaded)
    prompts, sampling = sequences(PROMPTS, LONGEST, seed=1), Sampling(0.0, 1.0, given.tokens)

    def greedy(engine):
        return engine.generate(prompts, [0] * len(prompts), sampling)

    say(f"{name}: dense")
    dense = greedy(vllm)
    found = {"dense, vLLM and hf": agreement(loaded, prompts, dense, greedy(hf))}
    vars(loaded).pop("exact", None)  # agreement's copy, of the dense weights
    prune_model(loaded, sequences(CALIBRATION, LONGEST), None, config.pruner, config.allocation, Sparsity(0.5))
    say(f"{name}: pruned")
    pruned = greedy(vllm)
    found["pruned, vLLM and hf"] = agreement(loaded, prompts, pruned, greedy(hf))
    save_checkpoint(loaded, folder / "pruned")
    close_server()
    # The model holds what the checkpoint does, so that this engine brings no weights.
    saved = replace(loaded, folder=folder / "pruned", weights_hash=f"{loaded.weights_hash}, pruned")
    started = greedy(VllmEngine(config.engine, saved, longest=given.tokens, log_folder=logs))
    found["pruned, brought and from the checkpoint"] = agreement(loaded, prompts, pruned, started)
    same = sum(one.output_ids == two.output_ids for one, two in zip(dense, pruned, strict=True))
    zeros, size = 0, 0
    for linear in model_linears(loaded.model).values():
        zeros, size = zeros + int(linear.weight.eq(0).sum()), size + linear.weight.numel()
    return found | {"dense and pruned": f"{same} equal", "sparsity": f"{zeros / size:.4f}"}


def write_model(name: str, dtype: str, folder: Path) -> None:
    settings = ARCHITECTURES[name][1]
    changes = SHAPE | {key: value for key, value in MORE.items() if key in settings}
    gemma = name.startswith("gemma")  # vLLM takes none without tied embeddings
    model = build(name, dtype=DTYPES[dtype], **changes, tie_word_embeddings=gemma)
    if gemma:  # else each token would echo itself, whatever the blocks hold
        model.get_input_embeddings().weight.div_(ECHO)
        model.model.norm.weight.add_(ECHO)
    model.save_pretrained(folder)
    for file in TOKENIZER:
        shutil.copy(BUNDLED_MODEL / file, folder)


def line(found: dict[str, Any]) -> str:
    told = []
    for name, pairs in found.items():
        text = pairs
        if isinstance(pairs, dict):
            text = f"{pairs['equal']} equal, {pairs['near_ties']} near ties, {pairs['different']} different"
            text += f" (largest gap {max(pairs['gaps']):.2f})" if pairs["gaps"] else ""
        told.append(f"{name}: {text}")
    return "; ".join(told)


if __name__ == "__main__":
    sys.exit(main())
