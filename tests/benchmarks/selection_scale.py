"""What it takes to select from a large store: seconds and peak memory of each step, in a fresh process.

    python tests/benchmarks/selection_scale.py [--traces 100000] [--tokens 4000] [--part 1024]

Builds a store of random ids in a temporary folder (about 1.6 GB for 100,000 traces x 4,000 tokens, 8 rollouts a
problem; deleted afterwards), then opens it, views it, prints what the table of pass rate x length counts, selects a
million tokens (difficulty=hard, length=moderate) and reads their ids. Measures, and asserts nothing.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROLLOUTS = 8
PROMPT_TOKENS = 100
BUDGET = 1_000_000


def build(folder: Path, traces: int, tokens: int, part: int) -> None:
    import numpy as np

    from ssgr.progress import track
    from ssgr.traces.problems import Problem
    from ssgr.traces.store import Trace, TraceStore

    draw = np.random.default_rng(0)
    problems = [Problem(f"p{i:06d}", f"What is {i}?", str(i), level=1 + i % 5) for i in range(traces // ROLLOUTS)]
    store = TraceStore.open(folder, {"model": "random", "seed": 0})
    store.set_problems(problems)
    solves = draw.random(len(problems))
    rows = [(i, rollout) for i in range(len(problems)) for rollout in range(ROLLOUTS)]
    with track("building", len(rows)) as bar:
        for start in range(0, len(rows), part):
            batch = rows[start : start + part]
            store.append([random_trace(Trace, draw, problems[i], r, solves[i], tokens) for i, r in batch])
            bar.advance(len(batch))


def random_trace(Trace, draw, problem, rollout, solves, tokens):
    length = int(draw.integers(tokens // 2, tokens * 3 // 2))
    prompt, output = draw.integers(0, 150_000, PROMPT_TOKENS), draw.integers(0, 150_000, length)
    correct = bool(draw.random() < solves)
    return Trace(problem.problem_id, rollout, prompt.tolist(), output.tolist(), "stop", correct, problem.answer)


def measure(folder: Path) -> None:
    """Runs in a process of its own and prints one JSON line per step: what it did, seconds, peak memory in MiB."""
    started = time.perf_counter()
    from ssgr.config import Correctness, DifficultyConfig, LengthConfig, SelectionConfig, Within
    from ssgr.traces.selection import select
    from ssgr.traces.store import TraceStore
    from ssgr.traces.tables import selection_table

    def step(name: str, what: str) -> None:
        nonlocal started
        seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"step": name, "what": what, "seconds": seconds, "peak": peak}), flush=True)
        started = time.perf_counter()

    step("import", "")
    store = TraceStore.open(folder)
    step("open", f"{len(store.index):,} rows")
    problems = store.problems
    step("problems", f"{len(problems):,}")
    view = store.view(problems, ROLLOUTS)
    step("view", f"{len(view.traces):,} traces")
    table = selection_table(view)
    step("table", f"{int(table['problems'].sum()):,} problems")
    selection = SelectionConfig(Correctness.correct, 1, [], False)
    hard = DifficultyConfig("hard", [0.0, 1 / 3], None)
    moderate = LengthConfig("moderate", [33.3, 66.7], Within.store, None, None)
    chosen = select(view, selection, hard, moderate, 0, BUDGET, 8_192)
    step("select", f"{len(chosen.rows):,} traces, {chosen.tokens:,} tokens")
    sequences = view.sequences(chosen.rows)
    step("read", f"{sum(len(prompt) + len(output) for prompt, output in sequences):,} ids")


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=4_000)
    parser.add_argument(
        "--part", type=int, default=1_024, help="rows of one part: 64 on a CPU, 1,024 on an accelerator"
    )
    parser.add_argument("--folder", type=Path, help="keep the store here, and use it where it is there already")
    parser.add_argument("--step", choices=("build", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "build":
        build(options.folder, options.traces, options.tokens, options.part)
        return
    if options.step == "measure":
        measure(options.folder)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="selection_scale_"))
    # both in processes of their own: a child's peak memory starts from what its parent held
    command = [sys.executable, __file__, "--folder", str(folder)]
    try:
        needed = 6 * options.traces * options.tokens
        if shutil.disk_usage(folder if folder.exists() else folder.parent).free < needed:
            sys.exit(f"{folder}: less than {needed / 1e9:.1f} GB are free")
        if not (folder / "manifest.json").is_file():
            started = time.perf_counter()
            sizes = [f"--traces={options.traces}", f"--tokens={options.tokens}", f"--part={options.part}"]
            subprocess.run([*command, "--step", "build", *sizes], check=True)
            print(f"built in {time.perf_counter() - started:.0f} s")
        parts = len(list((folder / "traces").iterdir()))
        print(f"{options.traces:,} traces x {options.tokens:,} tokens: {size(folder) / 1e9:.2f} GB in {parts:,} parts")
        output = subprocess.run([*command, "--step", "measure"], check=True, stdout=subprocess.PIPE, text=True).stdout
        steps = [json.loads(line) for line in output.splitlines()]
        for row in steps:
            print(f"{row['step']:10}{row['seconds']:8.2f} s {row['peak']:8.0f} MiB peak   {row['what']}")
        print(f"{'all':10}{sum(row['seconds'] for row in steps):8.2f} s {steps[-1]['peak']:8.0f} MiB peak")
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
