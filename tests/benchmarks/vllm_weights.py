"""Are weights put into a running vLLM those of a fresh start, how long does it take, and what do its seeds do?

    python tests/benchmarks/vllm_weights.py                             # the bundled model; needs a CUDA device
    python tests/benchmarks/vllm_weights.py model=hub model.path=DIR problems=math_train problems.path=FILE

Arguments are ssgr's own overrides. Greedy completions of the dense model, of the model pruned in place by magnitude, of
the dense model again, and of a vLLM that starts with a checkpoint of the pruned one; then sampled completions, with a
seed for each row, as the engine does it, and without. VLLM_USE_V2_MODEL_RUNNER=0 or =1 picks vLLM's model runner.
Prints what it found, and writes JSON with --out FILE.
"""

import gc
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from engines import arguments, composed, timed

from ssgr import stages
from ssgr.cell import describe
from ssgr.engines import vllm as room
from ssgr.engines.base import Sampling
from ssgr.engines.vllm import VllmEngine, close_server
from ssgr.models.blocks import model_linears
from ssgr.models.save import save_checkpoint
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity


class Unseeded(VllmEngine):
    """Leaves each request's draws to vLLM."""

    def __init__(self, engine):
        super().__init__(engine.config, engine.loaded, longest=engine.longest, log_folder=engine.log_folder)

    def _sampling(self, sampling):
        return super()._sampling(sampling) | {"seed": None}


def main() -> None:
    given = arguments(__doc__, problems=64, sampled=2048)
    cell = describe(composed(["engine=vllm", "pruner=magnitude", "sparsity=s50", *given.overrides]))
    subject = stages.load(cell)
    engine, loaded = subject.engine, subject.loaded
    engine.longest = max(engine.longest, given.tokens)  # so that no call is too long for the first start
    prompts = [subject.template.prompt_ids(problem.question) for problem in cell.problems[: given.problems]]
    found = {"device": stages.device_name(loaded.device), **engine.identity, "problems": len(prompts), "seconds": {}}
    with tempfile.TemporaryDirectory() as folder:
        weights(cell, engine, prompts, given, Path(folder) / "pruned", found)
    close_server()
    show(found)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


def weights(cell, engine, prompts, given, checkpoint, found) -> None:
    """Fills `found`; the model is dense before and pruned after."""
    loaded, config = engine.loaded, cell.config
    how = (config.pruner, config.allocation, Sparsity.from_config(config.sparsity))
    prune = partial(prune_model, loaded, None, None, *how)
    dense = {name: linear.weight.detach().to("cpu", copy=True) for name, linear in model_linears(loaded.model).items()}
    found["free_before"] = free(loaded.device)
    first = greedy(engine, prompts, given.tokens, "fresh start, dense", found)
    found["seconds"]["a call that brings nothing"] = ready(engine, max(prompts, key=len))
    prune()
    pruned = greedy(engine, prompts, given.tokens, "pruned weights brought", found)
    save_checkpoint(loaded, checkpoint)
    for name, linear in model_linears(loaded.model).items():
        linear.weight.data.copy_(dense[name])
    again = greedy(engine, prompts, given.tokens, "dense weights brought", found)
    found["way"] = "on the card" if room._live.near else "through host memory"
    found["seeds"] = seeds(engine, prompts, given.tokens)
    found["speed"] = speed(engine, prompts, given) if given.sampled else []
    log = engine._logs()[0].read_text(errors="replace")
    found["model_runner"] = "V2" if "Using V2 Model Runner" in log else "V1"
    close_server()
    found["free_after"] = free(loaded.device)
    prune()
    # The model holds what the checkpoint does, so that this engine brings no weights.
    saved = replace(loaded, folder=checkpoint, weights_hash=f"{loaded.weights_hash}, pruned")
    fresh = VllmEngine(engine.config, saved, longest=engine.longest, log_folder=engine.log_folder)
    started = greedy(fresh, prompts, given.tokens, "fresh start, pruned checkpoint", found)
    found["equal"] = {
        "dense and dense again": equal(first, again),
        "pruned, brought and freshly started": equal(pruned, started),
        "dense and pruned": equal(first, pruned),
    }


def free(device) -> int:
    """Bytes of the card that nobody holds, after ours has let go of what it does not use."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def ready(engine, prompt) -> float:
    """Seconds until one token is there, and with it whatever has to be started and brought before."""
    return timed(engine, [prompt], Sampling(0.0, 1.0, 1))[1]["seconds"]


def greedy(engine, prompts, tokens, name, found):
    found["seconds"][name] = ready(engine, max(prompts, key=len))
    return engine.generate(prompts, [0] * len(prompts), Sampling(0.0, 1.0, tokens))


def equal(ones, others) -> int:
    return sum(one.output_ids == other.output_ids for one, other in zip(ones, others, strict=True))


def seeds(engine, prompts, tokens):
    sampling = Sampling(0.8, 0.95, tokens)
    one, same, other = (engine.generate(prompts, [seed] * len(prompts), sampling) for seed in (1, 1, 2))
    return {"equal with one seed": equal(one, same), "equal with two seeds": equal(one, other)}


def speed(engine, prompts, given):
    """A row for each measured call; the first with and without seeds compiles and is not counted."""
    rows = (prompts * (given.sampled // len(prompts) + 1))[: given.sampled]
    ways, found = {"a seed for each row": engine, "no seeds": Unseeded(engine)}, []
    for each in ways.values():
        each.generate(rows, [0] * len(rows), Sampling(0.8, 0.95, 8))
    for way, each in (*ways.items(), *ways.items()):  # twice, in turn
        found.append({"way": way, **timed(each, rows, Sampling(0.8, 0.95, given.tokens))[1]})
    return found


def show(found) -> None:
    print(
        f"{found['device']}, vLLM {found['vllm']}, model runner {found['model_runner']}; weights brought {found['way']}"
    )
    for name, seconds in found["seconds"].items():
        print(f"{seconds:8.2f} s  one token: {name}")
    for name, count in (found["equal"] | found["seeds"]).items():
        print(f"{count:4} of {found['problems']} completions: {name}")
    before, after = (found[name] / 2**30 for name in ("free_before", "free_after"))
    print(f"free on the card: {before:.2f} GiB before the start, {after:.2f} GiB after the end")
    for row in found["speed"]:
        print(f"{row['tokens_per_second']:8,.0f} tokens/s of {row['rows']} rows, {row['way']}")


if __name__ == "__main__":
    main()
