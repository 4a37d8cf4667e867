"""The studies behind docs/findings.md, cell by cell, by several processes that take turns on one card.

    python tests/benchmarks/evidence.py --list
    python tests/benchmarks/evidence.py length_matched:6,7 axes:4,5 pick weights --processes 3 --kl-processes 1 \\
        --config-dir mine model=qwen2_5_coder_1_5b model.path=DIR engine=vllm engine.replicas_per_card=2 \\
        calibration=own_here calibration.tokens=65536 "evaluation.path='math/*.jsonl'" evaluation.dense_repeats=4
    python tests/benchmarks/evidence.py pick:0 weights:0 --task tiny_math --prefix tiny_      # the bundled model

STUDY or STUDY:SEED,SEED in the order in which they are wanted (of each study seed by seed, so that what is done when
time is up has whole seeds), then ssgr's options and overrides for all cells. The processes share one list of cells and
each keeps its engine; --kl-processes more take those cells alone that generate nothing, once the dense model's answers
are there; the others come to these last. What is finished is skipped. Prints a line for every cell, and exits with 1
where one failed.
"""

import argparse
import multiprocessing
import queue
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERRUPTED = 130
LENGTHS, BINS = ("short", "moderate", "long"), ("hard", "medium", "easy")


@dataclass(frozen=True)
class Study:
    """Its arms, each as overrides of the template; `answers`: whether the pruned models answer, else KL alone."""

    template: str
    arms: Sequence[str]
    seeds: Sequence[int]
    answers: bool = False

    def cells(self, name: str, seeds: Sequence[int], task: str) -> Iterator[tuple[list[str], list[str]]]:
        """Of each cell what comes before the overrides that all share, and what comes after."""
        limit = "limit=1000" if self.answers else "limit=500"
        measured = [f"evaluation={task}"] if self.answers else ["evaluation=divergence", f"evaluation.task={task}"]
        for seed in seeds or self.seeds:
            for arm in self.arms:
                yield ["-cn", self.template, f"study={name}", limit, *measured], [*arm.split(), f"seed={seed}"]


def of(option: str, values: Sequence[str], more: str = "") -> list[str]:
    return [f"{option}={value} {more}".strip() for value in values]


DIFFICULTY, LENGTH, GRID = "difficulty_effect", "length_effect", "difficulty_length_grid"
HARD, WRONG = "--hard", "--wrong"  # in arms: what the user's option says
EVERY, THREE = range(8), range(3)
SOLUTIONS = "difficulty=all calibration=reference_solutions problems=math_train --hard"
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
    **{
        f"sinks_{how}": Study(LENGTH, of("length", ("all", "short", "long"), f"pruner.sinks={how}"), THREE, True)
        for how in ("exclude", "undamped")
    },
    "right_wrong": Study(
        DIFFICULTY,
        of(
            "selection.correctness",
            ("correct", "incorrect"),
            "selection.matched=true difficulty=all calibration.tokens=32768 --wrong",
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
        print("\n".join(shlex.join(["ssgr", *words]) for words, _ in lines))
        return 0
    return run(lines, given)


def cells(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[tuple[list[str], bool]]:
    """The words of each command, and whether the pruned model answers in it."""
    common = ["--config-dir", given.config_dir] if given.config_dir else []
    common += [word for word in given.words if "=" in word]
    needs = {HARD: given.hard and f"problems.path={given.hard}", WRONG: given.wrong and f"calibration={given.wrong}"}
    asked = [word for word in given.words if "=" not in word]
    lacking = {word for word, value in needs.items() if not value}
    for word in asked or [name for name, study in STUDIES.items() if not lacking & set(" ".join(study.arms).split())]:
        name, _, seeds = word.partition(":")
        if name not in STUDIES:
            parser.error(f"no study {name}: {', '.join(STUDIES)}")
        study, chosen = STUDIES[name], [seed for seed in seeds.split(",") if seed]
        if not all(map(str.isdecimal, chosen)):
            parser.error(f"{word}: seeds are numbers, as in {name}:0,1")
        for before, after in study.cells(given.prefix + name, list(map(int, chosen)), given.task):
            if lacks := lacking & set(after):
                parser.error(f"{name} needs {lacks.pop()}")
            yield [*before, *common, *(needs.get(part, part) for part in after)], study.answers


def run(lines: Sequence[tuple[list[str], bool]], given: argparse.Namespace) -> int:
    context = multiprocessing.get_context("spawn")
    answering, kl, ended, answered = context.Queue(), context.Queue(), context.Queue(), context.Event()
    for words, answers in lines:
        (answering if answers else kl).put(words)
    given.logs.mkdir(parents=True, exist_ok=True)
    workers = []
    for number in range(given.processes + given.kl_processes):
        both = number < given.processes
        queues, wait = ((answering, kl), None) if both else ((kl,), answered)
        workers.append(context.Process(target=work, args=(number, queues, wait, ended, given.logs)))
        workers[-1].start()
    if not any(answers for _, answers in lines):
        answered.set()
    failed, count = 0, 0
    try:
        while count < len(lines) and any(worker.is_alive() for worker in workers):
            if not any(worker.is_alive() for worker in workers[: given.processes]):
                answered.set()  # they are no longer waited for
            with suppress(queue.Empty):
                number, status, seconds, words = ended.get(timeout=1)
                count, failed = count + 1, failed + (status != 0)
                told = f"{count}/{len(lines)} process {number} status {status} {seconds:.1f} s"
                print(f"{told}: {shlex.join(['ssgr', *words])}", flush=True)
                if status == 0:
                    answered.set()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was stored")
    finally:
        if count < len(lines):
            print(f"{len(lines) - count} cells are not done: {given.logs}")
            for worker in workers:
                worker.terminate()
        for worker in workers:
            worker.join()
    return int(failed > 0 or count < len(lines))


def work(number: int, queues: Sequence[Any], wait: Any, ended: Any, logs: Path) -> None:
    """One process: takes cells until there are none, with one engine for all of them; after `wait`, if there is one."""
    from hydra.core.global_hydra import GlobalHydra

    from ssgr import cli

    if wait is not None:
        wait.wait()
    with open(logs / f"{number}.log", "a") as log, redirect_stdout(log), redirect_stderr(log):
        for one in queues:
            while True:
                try:
                    words = one.get(timeout=0.5)
                except queue.Empty:
                    break
                GlobalHydra.instance().clear()
                sys.argv = ["ssgr", *words]
                begun = time.monotonic()
                try:
                    status = cli.main()
                except SystemExit as error:  # how argparse ends
                    status = error.code
                except Exception:  # of one cell: the others go on
                    traceback.print_exc()
                    status = 1
                if status == INTERRUPTED:
                    return
                ended.put((number, status, time.monotonic() - begun, words))


if __name__ == "__main__":
    sys.exit(main())
