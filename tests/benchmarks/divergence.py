"""How long do the dense hidden states and the divergence take, and in which of their parts?

    python tests/benchmarks/divergence.py                                   # the bundled model
    python tests/benchmarks/divergence.py --tokens 283000 model=hub model.path=DIR device=cuda

Arguments are ssgr's own overrides. The samples are random token ids of realistic lengths, or those of a trace store's
file. The smallest 30 % of each linear's weights are zeroed between the states and the divergence. The parts come from
a run of their own, since each of them waits for the device. Prints tables, and writes JSON with --out FILE.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from engines import composed
from rich.console import Console
from rich.table import Table

from ssgr.evaluation import divergence as room
from ssgr.evaluation.held_out import HeldOut
from ssgr.models.blocks import model_linears
from ssgr.models.load import load_model
from ssgr.stages import choose_device, device_name

PROMPT, MEDIAN, SPREAD = 120, 500, 0.6  # tokens of a prompt, of the median completion; sigma of the latter's logarithm
ZEROED = 0.3
PARTS = {"final_states": "forward passes", "output_logits": "logits", "compare_tokens": "comparison"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="ssgr's own, such as model=hub model.path=DIR")
    parser.add_argument("--tokens", type=int, default=20_000, help="generated tokens of all samples")
    parser.add_argument("--traces", type=Path, help="a Parquet file with prompt_ids and output_ids, instead of random")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the divergence; medians are given")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = composed(given.overrides)
    loaded = load_model(config.model, choose_device(config.device))
    drawn = from_file(given.traces) if given.traces else at_random(loaded.model.config.vocab_size, loaded.context)
    samples = held_out(drawn, given.tokens)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(loaded, samples, Path(folder), given.repeats)
    show(found)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


def at_random(vocabulary: int, context: int):
    """(prompt ids, output ids) without end."""
    generator = np.random.default_rng(0)
    prompt = min(PROMPT, context // 2)
    while True:
        tokens = int(np.clip(MEDIAN * generator.lognormal(0, SPREAD), 1, context - prompt))
        yield generator.integers(0, vocabulary, prompt), generator.integers(0, vocabulary, tokens)


def from_file(path: Path):
    rows = pd.read_parquet(path, columns=["prompt_ids", "output_ids"])
    return zip(rows["prompt_ids"].map(np.asarray), rows["output_ids"].map(np.asarray), strict=True)


def held_out(drawn, tokens: int) -> HeldOut:
    """The first samples, until they hold so many generated tokens."""
    sequences, total = [], 0
    for prompt, output in drawn:
        sequences.append((prompt, output))
        total += len(output)
        if total >= tokens:
            break
    table = pd.DataFrame({"tokens": [len(output) for _, output in sequences]})
    about = {"task": "t", "correct": True, "finish_reason": "stop", "pass_rate": 1.0}
    table = table.assign(problem_id=table.index.astype(str), difficulty="easy", length="short", **about)
    return HeldOut(table, sequences)


def measured(loaded, samples: HeldOut, folder: Path, repeats: int) -> dict:
    warm = HeldOut(samples.table[:2], samples.sequences[:2])
    room.divergence(loaded, warm, room.dense_states(loaded, warm, folder))  # kernels are chosen and loaded
    clock = Clock(loaded.device)
    with clock("dense states"):
        states = room.dense_states(loaded, samples, folder)
    with clock("dense states, kept"):
        room.dense_states(loaded, samples, folder)
    unchanged = room.divergence(loaded, samples, states).metrics["t/kl"]
    zero_smallest(loaded.model)
    room.divergence(loaded, warm, room.dense_states(loaded, warm, folder))
    on_card = loaded.device.type == "cuda"
    if on_card:
        before = torch.cuda.memory_allocated(loaded.device)
        torch.cuda.reset_peak_memory_stats(loaded.device)
    for _ in range(repeats):
        with clock("divergence"):
            metrics = room.divergence(loaded, samples, states).metrics
    extra = torch.cuda.max_memory_allocated(loaded.device) - before if on_card else None
    parts = Clock(loaded.device)
    with parts.inside(PARTS):
        room.divergence(loaded, samples, states)
    seconds = {name: median(values) for name, values in clock.seconds.items()}
    seconds |= {name: sum(values) for name, values in parts.seconds.items()}
    seconds["comparison"] -= seconds["logits"]  # which are made inside it
    tokens = int(samples.table["tokens"].sum())
    return {
        "device": device_name(loaded.device),
        "model": loaded.path,
        "samples": len(samples.sequences),
        "tokens": tokens,
        "tokens_with_prompts": sum(len(prompt) + len(output) for prompt, output in samples.sequences),
        "seconds": seconds,
        "every_divergence": clock.seconds["divergence"],
        "tokens_per_second": tokens / seconds["divergence"],
        "extra_bytes": extra,
        "kl_unchanged": unchanged,
        "metrics": metrics,
    }


@torch.no_grad()
def zero_smallest(model) -> None:
    for linear in model_linears(model).values():
        size = linear.weight.abs()
        linear.weight[size <= size.flatten().sort().values[int(ZEROED * size.numel()) - 1]] = 0


class Clock:
    """Seconds by name, each measured from an idle device to an idle device."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(list)

    @contextmanager
    def __call__(self, name: str):
        self.wait()
        started = time.perf_counter()
        yield
        self.wait()
        self.seconds[name].append(time.perf_counter() - started)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def inside(self, names: dict[str, str]):
        """The same for functions of the room, for as long as the block lasts."""
        originals = {function: getattr(room, function) for function in names}
        for function, name in names.items():
            setattr(room, function, self.timed(originals[function], name))
        yield
        for function, original in originals.items():
            setattr(room, function, original)

    def timed(self, function, name: str):
        def call(*arguments):
            with self(name):
                return function(*arguments)

        return call


def show(found: dict) -> None:
    table = Table("", "seconds", title=f"{found['model']} on {found['device']}: {found['tokens']:,} tokens")
    for name, value in found["seconds"].items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
    print(f"{found['samples']} samples, {found['tokens_per_second']:,.0f} tokens/s; KL {found['metrics']['t/kl']:.6f},")
    print(f"of the unchanged model {found['kl_unchanged']}")
    if found["extra_bytes"] is not None:
        print(f"peak memory beyond the model's: {found['extra_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
