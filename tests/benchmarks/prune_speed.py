"""How long does pruning a whole model take, in which stages, and is it as good as the reference algorithm's?

    python tests/benchmarks/prune_speed.py --shape qwen2_7b --blocks all --tokens 128x2048 --device cuda --out 7b.json
    python tests/benchmarks/prune_speed.py --model DIR --traces PART.parquet --tokens 64x2048 --stages --quality 28
    python tests/benchmarks/prune_speed.py --shape tiny --blocks all --tokens 16x256 --device cpu --quality 4
    python tests/benchmarks/prune_speed.py --model bundled --tokens 128x512 --device cpu --eager-blocks 0 --many

--shape: random weights of the real shapes in bf16, with outlier channels and sink tokens (prune_speed_model.py). Each
pruner and pattern is run by ssgr's prune_model, whole and undisturbed; --stages runs each once more with its stages
apart. SparseGPT is then pruned plainly, in fp32 (prune_speed_eager.py); --eager-blocks N measures N blocks of it and
counts for all. --quality N prunes the first N blocks again under dense propagation, and measures all answers against
one fp64 Gram matrix per linear (prune_speed_quality.py). --many answers four sparsities of two pruners from one
calibration pass, in turn with one pruning by itself. --peer llmcompressor lets that package prune the same too. Prints
tables, and writes JSON as it goes with --out FILE.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cost import SHAPES, numbers
from cost_blocks import forward_passes, memory, timed
from engines import composed
from prune_speed_eager import prune_eagerly
from prune_speed_model import Originals, block_count, shortened, subject
from prune_speed_peer import PEERS, check_installed, prune_by_peer
from prune_speed_quality import measured, summary
from prune_speed_stages import Stages
from prune_speed_table import show

from ssgr.models.blocks import decoder_blocks, model_linears
from ssgr.progress import say
from ssgr.pruning.loop import PruneReport, Request, prune_model
from ssgr.pruning.one_pass import answers
from ssgr.pruning.sparsity import Sparsity
from ssgr.stages import choose_device, device_name

MANY = [(name, text) for name in ("sparsegpt", "wanda") for text in ("0.5", "0.3", "0.4", "0.6")]
WARM_BLOCKS, WARM_TOKENS = 2, 16_384  # of a run before the first measured one: kernels are compiled and loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--model", type=Path, help="a folder with real weights, or `bundled`, instead of --shape")
    parser.add_argument("--traces", type=Path, help="a part of a trace store (prompt_ids, output_ids), with --model")
    parser.add_argument(
        "--blocks", type=block_count, help="all (the default), or how many of the model's first decoder blocks"
    )
    parser.add_argument(
        "--tokens", type=numbers("x"), default=(128, 2048), help="SEQUENCESxLENGTH; of traces their sum"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pruners", type=words, default=["sparsegpt", "wanda", "magnitude"])
    parser.add_argument("--patterns", type=words, default=["0.5", "2:4"], help="shares, or n:m which keeps n of m")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; medians are given")
    parser.add_argument("--stages", action="store_true", help="run each once more, with its stages apart")
    parser.add_argument("--eager-blocks", type=int, help="blocks of the eager path; 0: none (default: all)")
    parser.add_argument("--quality", type=int, default=0, help="blocks whose errors are measured in fp64")
    parser.add_argument("--quality-alone", action="store_true", help="no seconds, whose runs come first")
    parser.add_argument("--many", action="store_true", help="many answers from one pass (pruner.one_pass)")
    parser.add_argument("--peer", choices=PEERS, help="a package that prunes the same, where it is installed")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="JSON files: print their tables, measure nothing")
    given = parser.parse_args()
    for path in given.table or []:
        show(json.loads(path.read_text()))
    if given.table:
        return
    if (given.shape is None) == (given.model is None) or (given.traces and not given.model):
        parser.error("give --shape, or --model and perhaps --traces")
    if given.peer:
        check_installed(given.peer)
    found: dict[str, Any] = {}
    try:
        Measurement(given, found).all()
    finally:  # what was measured before something failed is worth its time too
        show(found)


def words(text: str) -> list[str]:
    return text.split(",")


def pattern(text: str) -> Sparsity:
    n, _, m = text.partition(":")
    return Sparsity(1 - int(n) / int(m), int(n), int(m)) if m else Sparsity(float(text))


@cache
def pruning_options(name: str, propagation: str) -> Any:
    """Composing takes longer than pruning a block: the run that warms up has done it."""
    return composed([f"pruner={name}", f"pruner.propagation={propagation}"])


def raised(row: dict[str, Any]) -> bool:
    """Whether a linear was damped more than the option says: what the first attempt, which failed, names."""
    steps = row.get("damping_steps")
    return bool(steps) and f"damping {row['damping']:.3g}:" not in steps[0]


class Measurement:
    """One model and its tokens; `found` grows, and is written to --out, part by part."""

    def __init__(self, given: argparse.Namespace, found: dict[str, Any]):
        self.given, self.found = given, found
        device = choose_device(given.device)
        seconds, (self.loaded, self.sequences) = timed(subject, given, device)
        self.model, self.device = self.loaded.model, device
        self.originals = Originals(self.model)
        self.blocks = len(decoder_blocks(self.model))
        versions = {}
        for package in filter(None, ("torch", "triton", "transformers", "ssgr", given.peer)):
            with suppress(PackageNotFoundError):
                versions[package] = version(package)
        self.keep(
            subject=given.shape or given.model.name,
            card=device_name(device),
            versions=versions,
            blocks=self.blocks,
            prunable=sum(linear.weight.numel() for linear in model_linears(self.model).values()),
            tokens=sum(map(len, self.sequences)),
            sequences=len(self.sequences),
            longest=max(map(len, self.sequences)),
            load_seconds=seconds,
            runs=[],
        )

    def keep(self, **parts: Any) -> None:
        self.found.update(parts)
        if self.given.out:
            self.given.out.parent.mkdir(parents=True, exist_ok=True)
            self.given.out.write_text(json.dumps(self.found, indent=2) + "\n")

    def all(self) -> None:
        given = self.given
        whole = [(ids[:1], ids[1:]) for ids in self.sequences]
        forward_passes(self.loaded, whole[:8])
        self.keep(forward_seconds=timed(forward_passes, self.loaded, whole)[0])
        asked = [(name, text) for name in given.pruners for text in given.patterns]
        if not given.quality_alone:
            self.seconds(asked)
        if given.quality:
            self.quality(asked, min(given.quality, self.blocks))

    def seconds(self, asked: list[tuple[str, str]]) -> None:
        given = self.given
        for name, text in asked:
            self.program(name, text)
        if given.many:
            self.many()
        eager_blocks = self.blocks if given.eager_blocks is None else min(given.eager_blocks, self.blocks)
        if eager_blocks:
            self.eager(given.patterns[0], eager_blocks)
        if given.peer:
            for name, text in asked:
                if name in PEERS[given.peer]:
                    self.peer(name, text)

    def program(self, name: str, text: str) -> None:
        say(f"ssgr: {name} {text}")
        self.warm(partial(self.prune, name, text))
        runs = []
        for _ in range(self.given.repeats):
            before = memory(self.device)
            runs.append(timed(self.prune, name, text, self.sequences))
            peak = memory(self.device, peak=True)
            self.originals.restore()
        row = self.row("ssgr", name, text, median(seconds for seconds, _ in runs), before, peak)
        report = runs[-1][1]
        row |= {"every_run": [seconds for seconds, _ in runs], "achieved": report.achieved}
        row["retried_factors"] = {
            each["name"]: each["damping_steps"] for each in report.rows if "damping_steps" in each
        }
        row["raised_damping"] = [each["name"] for each in report.rows if raised(each)]
        if self.given.stages:
            stages = Stages(self.device)
            with stages.watching():
                self.prune(name, text, self.sequences)
            self.originals.restore()
            row |= {"stages": stages.seconds, "stages_missing": stages.missing}
        self.keep(runs=[*self.found["runs"], row])

    def prune(self, name: str, text: str, sequences: list[np.ndarray], propagation: str = "pruned") -> PruneReport:
        config = pruning_options(name, propagation)
        return prune_model(self.loaded, sequences, None, config.pruner, config.allocation, pattern(text))

    def many(self) -> None:
        """The pass, and every answer put into the model, as a study's cells do; the one pruning is the first request's.

        In turn, so that a machine that is shared slows both.
        """
        say(f"one pass for {len(MANY)} answers")
        requests = [self.request(name, text) for name, text in MANY]
        self.warm(partial(self.from_one_pass, requests))
        alone, together = [], []
        for _ in range(self.given.repeats):
            for seconds, asked in ((alone, requests[:1]), (together, requests)):
                before = memory(self.device)
                seconds.append(timed(self.from_one_pass, asked, self.sequences)[0])
                peak = memory(self.device, peak=True)
                self.originals.restore()
        row = {"answers": MANY, "seconds": median(together), "alone_seconds": median(alone)}
        row |= {"every_run": together, "every_run_alone": alone, "bytes_before": before, "peak_bytes": peak}
        self.keep(many=row)

    def request(self, name: str, text: str) -> Request:
        config = pruning_options(name, "dense")
        return Request(config.pruner, config.allocation, pattern(text))

    def from_one_pass(self, requests: list[Request], sequences: list[np.ndarray]) -> None:
        if len(requests) == 1:
            (one,) = requests
            prune_model(self.loaded, sequences, None, one.pruner, one.allocation, one.sparsity)
            return
        for answer in answers(self.loaded, sequences, None, requests):
            answer.put_into(self.model)

    def warm(self, work: Callable[[list[np.ndarray]], Any], blocks: int = WARM_BLOCKS) -> None:
        """A short run of the same kind, and the dense weights again."""
        count = max(1, WARM_TOKENS // max(map(len, self.sequences)))
        with shortened(self.model, blocks):
            work(self.sequences[:count])
        self.originals.restore()

    def eager(self, text: str, blocks: int) -> None:
        say(f"the eager path: sparsegpt {text}, {blocks} of {self.blocks} blocks")
        work = partial(prune_eagerly, self.model, sparsity=pattern(text))
        self.warm(work, blocks=1)  # one of 7B takes it 10 s
        before = memory(self.device)
        with shortened(self.model, blocks):
            seconds, run = timed(work, self.sequences)
        share = self.blocks / blocks
        row = self.row("eager fp32", "sparsegpt", text, seconds * share, before, memory(self.device, peak=True))
        row |= {"measured_blocks": blocks, "raised_damping": run.raised}
        row["stages"] = {stage: value * share for stage, value in run.stages.items()}
        self.originals.restore()
        self.keep(runs=[*self.found["runs"], row])

    def peer(self, name: str, text: str) -> None:
        say(f"{self.given.peer}: {name} {text}")
        work = partial(prune_by_peer, self.loaded, pruner=name, sparsity=pattern(text))
        self.warm(work)
        before = memory(self.device)
        seconds, _ = timed(work, self.sequences)
        row = self.row(self.given.peer, name, text, seconds, before, memory(self.device, peak=True))
        self.originals.restore()
        self.keep(runs=[*self.found["runs"], row])

    def row(self, path: str, name: str, text: str, seconds: float, before: int, peak: int) -> dict[str, Any]:
        row = {"path": path, "pruner": name, "pattern": text, "seconds": seconds}
        row["tokens_per_second"] = self.found["tokens"] / seconds
        return row | {"bytes_before": before, "peak_bytes": peak}

    def quality(self, asked: list[tuple[str, str]], blocks: int) -> None:
        """The eager path is the first of each pattern's answers, which the others are compared with."""
        found = []
        with shortened(self.model, blocks):
            for text in dict.fromkeys(text for _, text in asked):
                say(f"quality of {text}: {blocks} blocks under dense propagation")
                works = {
                    "eager fp32 sparsegpt": partial(prune_eagerly, self.model, self.sequences, pattern(text), True)
                }
                for name, other in asked:
                    if other != text:
                        continue
                    works[f"ssgr {name}"] = partial(self.prune, name, text, self.sequences, "dense")
                    if self.given.peer and name in PEERS[self.given.peer]:
                        peer = partial(prune_by_peer, self.loaded, self.sequences, name, pattern(text), True)
                        works[f"{self.given.peer} {name}"] = peer
                rows = measured(self.model, self.sequences, {path: self.answer(work) for path, work in works.items()})
                found.append({"pattern": text, "blocks": blocks, "paths": summary(rows), "linears": rows})
                self.keep(quality=found)

    def answer(self, work: Any) -> dict[str, torch.Tensor]:
        work()
        pruned = {name: linear.weight.to("cpu", copy=True) for name, linear in model_linears(self.model).items()}
        self.originals.restore()
        return pruned


if __name__ == "__main__":
    main()
