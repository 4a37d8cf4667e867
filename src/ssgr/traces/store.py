"""The trace store: what an engine sampled, token by token, in parquet parts that are written once (parts.py).

<folder>/manifest.json, problems.parquet and traces/part-NNNNN-<checksum>.parquet. A part holds no time of writing;
one whose bytes are not what its name promises is not read. Each row carries a hash of its problem's question and gold
answer, so that traces of a problem that has changed since are not used.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import content_hash, read_json, remove_leftovers, write_atomically, write_json
from ssgr.engines.base import Sampling
from ssgr.errors import UserError
from ssgr.progress import say
from ssgr.traces import parts
from ssgr.traces.problems import Problem

PROBLEM_SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "solution": pa.string(),
        "level": pa.int32(),
        "family": pa.string(),
        "subject": pa.string(),
    }
)


@dataclass(frozen=True)
class Trace:
    """One completion of one problem. `correct` is None where nobody graded it.

    `text` is kept of traces that came from elsewhere with a text that this program could not make again, `tokens` is
    the number of generated tokens (None: of output_ids) of those whose ids were not kept.
    """

    problem_id: str
    rollout: int
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    finish_reason: str
    correct: bool | None = None
    answer: str | None = None
    text: str | None = None
    tokens: int | None = None


def store_key(
    *,
    weights_hash: str,
    dtype: str,
    engine: str,
    template: str,
    think_end: str | None,
    sampling: Sampling,
    seed: int,
    problem_set: str,
) -> str:
    """The name of a store: a hash of everything that changes a token, and of the tag that grading goes by.

    Not of k, nor of the number of problems (a larger request adds rows), nor of the engine's versions (they stand in
    the manifest). `template` is PromptTemplate.hash, `engine` the engine's name.
    """
    values = {"weights": weights_hash, "dtype": dtype, "engine": engine, "template": template, "think_end": think_end}
    return content_hash({**values, "sampling": asdict(sampling), "seed": seed, "problem_set": problem_set})


def row_seed(seed: int, *row: str | int) -> int:
    """A 63-bit seed of one row of a store, from the store's seed and the row's key."""
    key = json.dumps([seed, *row], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class TraceStore:
    """Reads a store, and appends to it (one writer at a time: the caller holds the lock)."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any] | None = None) -> "TraceStore":
        """The store in this folder; with a manifest, and the lock held, it is made where it is not there yet.

        Raises UserError where it is not there and no manifest is given.
        """
        folder = Path(folder)
        if manifest is not None:
            remove_leftovers(folder)
            remove_leftovers(folder / "traces")
        if read_json(folder / "manifest.json") is None:
            if manifest is None:
                raise UserError(f"no trace store in {folder} (manifest.json is missing or broken)")
            if (folder / "manifest.json").is_file():
                say(f"{folder / 'manifest.json'} is damaged (no JSON): it is written again")
            write_json(folder / "manifest.json", manifest)
        store = cls(folder)
        if manifest is not None:
            store._remove_damaged()
        return store

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    def refresh(self) -> None:
        """Reads again what lies on disk, such as after waiting for another process."""
        paths = parts.part_files(self.folder / "traces")
        indices = dict(zip((path.name for path in paths), parts.read_indices(paths), strict=True))
        self.damaged = [path for path in paths if indices[path.name] is None]
        self._parts = parts.current_parts({name: index for name, index in indices.items() if index is not None})
        problems = _read_problems(self.folder / "problems.parquet")
        if problems is None:
            self.damaged.append(self.folder / "problems.parquet")
        self._problems = problems or {}
        self._index: pd.DataFrame | None = None

    @property
    def index(self) -> pd.DataFrame:
        """Every usable row without its token ids, and where it lies: columns INDEX_COLUMNS, part, row."""
        if self._index is None:
            index = parts.index_frame(self._parts)
            current = {problem_id: problem.content for problem_id, problem in self._problems.items()}
            wanted = index["problem_id"].map(current)
            index = index[wanted.isna() | (wanted == index["content"])]
            self._index = index.drop_duplicates(["problem_id", "rollout"], ignore_index=True)
        return self._index

    @property
    def damage(self) -> str | None:
        """What keeps the store from being whole, by the file's name; None where nothing is seen to."""
        if self.damaged:
            return f"{self.damaged[0]} is damaged"
        return f"{self.folder / 'problems.parquet'} is missing" if self._parts and not self._problems else None

    @property
    def parts(self) -> list[str]:
        """The names of the parts in use, by their numbers."""
        return list(self._parts)

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems.values())

    def set_problems(self, problems: Iterable[Problem]) -> None:
        """Adds these problems, replacing those of the same id; traces of another question or answer drop out."""
        merged = {**self._problems, **{problem.problem_id: problem for problem in problems}}
        if merged == self._problems and (self.folder / "problems.parquet").is_file():
            return
        self._problems, self._index = merged, None
        table = pa.Table.from_pylist([asdict(problem) for problem in merged.values()], PROBLEM_SCHEMA)
        write_atomically(self.folder / "problems.parquet", lambda path: pq.write_table(table, path, compression="zstd"))

    def missing(self, problem_ids: Iterable[str], k: int) -> list[tuple[str, int]]:
        """What rollouts 0..k-1 of these problems still lack, rollout by rollout, in the problems' order."""
        held = set(zip(self.index["problem_id"], self.index["rollout"], strict=True))
        problem_ids = list(problem_ids)
        rows = ((problem_id, rollout) for rollout in range(k) for problem_id in problem_ids)
        return [row for row in rows if row not in held]

    def append(self, traces: Sequence[Trace]) -> None:
        """Writes one part, whole or not at all. Call set_problems first: a trace belongs to its question."""
        if not traces:
            return
        folder = self.folder / "traces"
        remove_leftovers(folder)
        taken = {parts.part_number(name) for name in self._parts}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        table = self._table(traces)
        self._add(parts.write_part(folder, number, table), table)

    def view(self, problems: Sequence[Problem], k: int, split: bool = False) -> "StoreView":
        """Rollouts 0..k-1 of these problems, as far as the store holds them; nothing else enters the view."""
        return StoreView(self, list(problems), k, split)

    def read(self, places: Iterable[str], rows: Iterable[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Prompt and output ids (int32) of the rows of these parts, in their order.

        Raises CellError where a part is no longer what it was when the store was opened.
        """
        wanted = pd.DataFrame({"part": list(places), "row": list(rows)})
        found: list[Any] = [None] * len(wanted)
        for part, group in wanted.groupby("part"):
            pairs = parts.read_ids(self.folder / "traces" / part, group["row"].to_numpy())
            for place, pair in zip(group.index, pairs, strict=True):
                found[place] = pair
        return found

    def table(self, part: str) -> pa.Table:
        """All rows of one part, in their order and with every column."""
        return parts.read_part(self.folder / "traces" / part)

    def replace(self, part: str, table: pa.Table) -> None:
        """Puts these rows in the place of a part's, such as with new grades; the caller holds the lock."""
        del self._parts[part]
        self._add(parts.replace_part(self.folder / "traces" / part, table), table)

    def _add(self, path: Path, table: pa.Table) -> None:
        self._parts[path.name] = table.select(parts.INDEX_COLUMNS)
        self._parts = dict(sorted(self._parts.items(), key=lambda part: parts.part_number(part[0])))
        self._index = None

    def _remove_damaged(self) -> None:
        for path in self.damaged:
            say(f"{path} is damaged: what it held is made again")
            path.unlink(missing_ok=True)
        self.damaged = []

    def _table(self, traces: Sequence[Trace]) -> pa.Table:
        problems = [self._problems.get(trace.problem_id) for trace in traces]
        prompts, outputs = ([np.asarray(getattr(trace, ids), np.int32) for trace in traces] for ids in parts.IDS)
        columns = {name: [getattr(trace, name) for trace in traces] for name in ("problem_id", "rollout", "text")}
        columns |= {"prompt_ids": prompts, "output_ids": outputs}
        columns |= {name: [getattr(trace, name) for trace in traces] for name in ("finish_reason", "correct", "answer")}
        columns["prompt_tokens"] = [len(ids) for ids in prompts]
        generated = zip(traces, outputs, strict=True)
        columns["tokens"] = [len(ids) if trace.tokens is None else trace.tokens for trace, ids in generated]
        columns["content"] = [problem.content if problem else "" for problem in problems]
        return parts.rows_table(columns)


class StoreView:
    """What a cell sees of a store: some problems, the first k rollouts of each, in that order.

    `traces` has one row per trace: problem_id, rollout, finish_reason, correct (bool: False where ungraded or
    truncated), answer, prompt_tokens, tokens (generated), and where the ids lie. `solved` (the number of correct ones
    of `graded` rollouts) and `pass_rate` are Series by problem_id.

    With split=True the first half of each problem's rollouts tells its pass rate and only the second half's are
    traces, so that no trace is taken for the luck that put its problem into a bin. `all_traces` are both halves.

    `more` is what a message says would give the view more traces.
    """

    more = "more rollouts.problems, a larger rollouts.k"

    def __init__(self, store: TraceStore, problems: list[Problem], k: int, split: bool = False):
        self.store, self.problems, self.k, self.split = store, problems, k, split
        self.graded = k // 2 if split else k
        order = {problem.problem_id: position for position, problem in enumerate(problems)}
        content = {problem.problem_id: problem.content for problem in problems}
        index = store.index
        wanted = index["problem_id"].isin(order) & (index["rollout"] < k)
        wanted &= (index["content"] == "") | (index["content"] == index["problem_id"].map(content))
        traces = index[wanted].drop(columns="content")
        correct = traces["correct"].eq(True).fillna(False).astype(bool)
        traces["correct"] = correct & (traces["finish_reason"] == "stop")
        traces = traces.assign(_order=traces["problem_id"].map(order)).sort_values(["_order", "rollout"])
        self.all_traces = traces.drop(columns="_order").reset_index(drop=True)
        supplies = self.all_traces["rollout"] >= self.graded
        self.traces = self.all_traces[supplies].reset_index(drop=True) if split else self.all_traces

    @cached_property
    def solved(self) -> pd.Series:
        counted = self.all_traces[self.all_traces["rollout"] < self.graded]
        counts = counted.groupby("problem_id", sort=False)["correct"].sum()
        return (
            counts.reindex([problem.problem_id for problem in self.problems], fill_value=0).astype(int).rename("solved")
        )

    @cached_property
    def pass_rate(self) -> pd.Series:
        return (self.solved / self.graded).rename("pass_rate")

    def sequences(self, rows: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
        """Prompt and output ids (int32) of these rows of `traces`, in their order, read when asked for."""
        return self.store.read(rows["part"], rows["row"])


def _read_problems(path: Path) -> dict[str, Problem] | None:
    """By id; none where the file is not there, None where it cannot be read."""
    try:
        return {row["problem_id"]: Problem(**row) for row in pq.read_table(path).to_pylist()}
    except FileNotFoundError:
        return {}
    except (pa.ArrowInvalid, OSError, TypeError, KeyError):
        return None
