"""The studies behind docs/findings.md, cell by cell, by several processes that take turns on one card.

    python tests/benchmarks/evidence.py --list
    python tests/benchmarks/evidence.py length_matched:6,7 axes:4,5 sinks weights --processes 3 --kl-processes 1 \\
        --config-dir mine model=qwen2_5_coder_1_5b model.path=DIR engine=vllm engine.replicas_per_card=2 \\
        calibration=own_here calibration.tokens=65536 "evaluation.path='math/*.jsonl'" evaluation.dense_repeats=4
    python tests/benchmarks/evidence.py sinks:0 weights:0 --task tiny_math --prefix tiny_      # the bundled model

STUDY or STUDY:SEED,SEED in the order in which they are wanted (of each study seed by seed, so that what is done when
time is up has whole seeds), then ssgr's options and overrides for all cells. The processes share one list of cells and
each keeps its engine; --kl-processes more take those cells alone that generate nothing, once the dense model's answers
are there; the others come to these last. What is finished is skipped. Prints a line for every cell, and exits with 1
where one failed.
"""

import argparse
import multiprocessing
import queue
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTHS, BINS = ("short", "moderate", "long"), ("hard", "medium", "easy")


@dataclass(frozen=True)
class Study:
    """Its arms, each as overrides of the template; `answers`: whether the pruned models answer, else KL alone."""

    template: str
    arms: Sequence[str]
    seeds: Sequence[int]
    answers: bool = False

    def cells(self, name: str, seeds: Sequence[int], task: str) -> Iterator[str]:
        measured = (
            f"limit=1000 evaluation={task}"
            if self.answers
            else f"limit=500 evaluation=divergence evaluation.task={task}"
        )
        for seed in seeds or self.seeds:
            for arm in self.arms:
                yield f"-cn {self.template} study={name} {measured} %s {arm} seed={seed}"


def of(option: str, values: Sequence[str], more: str = "") -> list[str]:
    return [f"{option}={value} {more}".strip() for value in values]


DIFFICULTY, LENGTH, GRID = "difficulty_effect", "length_effect", "difficulty_length_grid"
EVERY, THREE = range(8), range(3)
SOLUTIONS = "difficulty=all calibration=reference_solutions problems=math_train problems.path={hard}"
STUDIES = {
    "difficulty_matched": Study(
        DIFFICULTY, of("difficulty", ("hard", "easy"), "selection.balance=[length]"), EVERY, True
    ),
    "length_matched": Study(
        LENGTH, of("length", LENGTHS, "selection.balance=[difficulty] length.within=difficulty"), EVERY, True
    ),
    "axes": Study(
        LENGTH, [*of("length", ("all", *LENGTHS)), *of("length=all difficulty", ("hard", "easy"))], EVERY, True
    ),
    "sinks": Study(
        LENGTH,
        [f"length={x} pruner.sinks={how}" for x in ("all", "short", "long") for how in ("exclude", "undamped")],
        THREE,
        True,
    ),
    "right_wrong": Study(
        DIFFICULTY,
        of(
            "selection.correctness",
            ("correct", "incorrect"),
            "selection.matched=true difficulty=all calibration.tokens=32768 {wrong}",
        ),
        THREE,
    ),
    "hard_reference": Study(DIFFICULTY, ["difficulty=hard", SOLUTIONS], THREE),
    "weights": Study(
        DIFFICULTY, of("calibration.token_weights", ("all", "decode", "per_trace"), "difficulty=all"), THREE
    ),
    "pick": Study(LENGTH, of("length", ("shortest", "longest")), THREE),
    "budget": Study("token_budget", of("calibration.tokens", ("8192", "32768", "131072")), THREE),
    "s40_matched": Study(
        DIFFICULTY, of("difficulty", ("hard", "easy"), "sparsity=s40 selection.balance=[length]"), THREE
    ),
    "equal_traces": Study(
        DIFFICULTY, of("difficulty", ("hard", "easy"), "calibration.tokens=null calibration.sequences=150"), THREE
    ),
    "subject_matched": Study(
        DIFFICULTY, of("difficulty", ("hard", "easy"), "selection.balance=[length,subject]"), THREE
    ),
    "grid": Study(
        GRID,
        [f"difficulty={x} length={y} length.within=difficulty calibration.tokens=32768" for x in BINS for y in LENGTHS],
        range(2),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="STUDY[:SEEDS] | OPTION=VALUE")
    parser.add_argument("--list", action="store_true", help="print the cells' command lines, run nothing")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kl-processes", type=int, default=0)
    parser.add_argument("--config-dir", help="of ssgr")
    parser.add_argument("--task", default="math")
    parser.add_argument("--prefix", default="real_", help="of the studies' names")
    parser.add_argument("--hard", help="hard_reference: a file of the hard problems, with their solutions")
    parser.add_argument("--wrong", help="right_wrong: the calibration option whose store keeps wrong traces' ids")
    parser.add_argument("--logs", type=Path, default=Path("evidence-logs"))
    given = parser.parse_intermixed_args()
    lines = list(cells(given, parser))
    if given.list:
        print("\n".join(f"ssgr {line}" for line, _ in lines))
        return 0
    return run(lines, given)


def cells(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Command lines, and whether the pruned model answers in them."""
    overrides = [word for word in given.words if "=" in word]
    asked = [word for word in given.words if "=" not in word] or list(STUDIES)
    common = " ".join([*([f"--config-dir {given.config_dir}"] if given.config_dir else []), *overrides])
    for word in asked:
        name, _, seeds = word.partition(":")
        if name not in STUDIES:
            parser.error(f"no study {name}: {', '.join(STUDIES)}")
        study, chosen = STUDIES[name], [seed for seed in seeds.split(",") if seed]
        if not all(map(str.isdecimal, chosen)):
            parser.error(f"{word}: seeds are numbers, as in {name}:0,1")
        for line in study.cells(given.prefix + name, list(map(int, chosen)), given.task):
            needs = {"hard": given.hard, "wrong": given.wrong and f"calibration={given.wrong}"}
            lacking = [option for option, value in needs.items() if f"{{{option}}}" in line and not value]
            if lacking:
                parser.error(f"{name} needs --{lacking[0]}")
            yield line.format(**needs) % common, study.answers


def run(lines: Sequence[tuple[str, bool]], given: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    answering, kl, ended, answered = context.Queue(), context.Queue(), context.Queue(), context.Event()
    for line, answers in lines:
        (answering if answers else kl).put(line)
    if not any(answers for _, answers in lines):
        answered.set()
    given.logs.mkdir(parents=True, exist_ok=True)
    workers = []
    for number in range(given.processes + given.kl_processes):
        first = number < given.processes
        queues, wait = ((answering, kl), None) if first else ((kl,), answered)
        workers.append(context.Process(target=work, args=(number, queues, wait, ended, given.logs)))
        workers[-1].start()
    failed = 0
    for count in range(1, len(lines) + 1):
        while True:
            try:
                number, status, seconds, line = ended.get(timeout=1)
                answered.set()
                break
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    print(f"every process has ended, and {len(lines) - count + 1} cells are not done: {given.logs}")
                    return 1
        failed += status != 0
        print(f"{count}/{len(lines)} process {number} status {status} {seconds:.1f} s: ssgr {line}", flush=True)
    for worker in workers:
        worker.join()
    return int(failed > 0)


def work(number: int, queues: Sequence[Any], wait: Any, ended: Any, logs: Path) -> None:
    """One process: takes cells until there are none, with one engine for all of them; after `wait`, if there is one."""
    import shlex

    from hydra.core.global_hydra import GlobalHydra

    from ssgr import cli
    from ssgr.engines.vllm import close_server

    if wait is not None:
        wait.wait()
    with open(logs / f"{number}.log", "a") as log, redirect_stdout(log), redirect_stderr(log):
        for one in queues:
            while True:
                try:
                    line = one.get(timeout=0.5)
                except queue.Empty:
                    break
                GlobalHydra.instance().clear()
                sys.argv = ["ssgr", *shlex.split(line)]
                begun = time.monotonic()
                try:
                    status = cli.main()
                except SystemExit as error:  # how argparse ends
                    status = error.code
                ended.put((number, status, time.monotonic() - begun, line))
        close_server()  # a process that multiprocessing started calls no exit handlers


if __name__ == "__main__":
    sys.exit(main())
