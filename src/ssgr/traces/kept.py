"""A store as one small file: how every rollout ended, and the ids of the correct traces alone.

It holds no text and no prompt: `python -m ssgr.traces import` writes each prompt again from its question, and a hash
of question and gold answer and one of the prompt's ids, which every row carries, say whether it is the same. The
store's manifest stands in the parquet file's own metadata. Traces of a problem stand together: most of what one says,
another one says as well, and that is what makes the file small.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssgr.cache import write_atomically
from ssgr.errors import CellError, UserError, first_line
from ssgr.progress import track
from ssgr.traces.incoming import BATCH, Incoming, prompt_name, table_rows
from ssgr.traces.problems import Problem
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.store import TraceStore

KEPT = "kept"  # the manifest's entry: whose ids there are
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."  # of stores that name none
PLACES = ("model", "path", "problem_set")  # what may be a path on the machine that made the store
NAMES = ("revision", "weights", "dtype", "think_end", "template", "instruction", "enable_thinking", "sampling", "seed")
NAMES += ("engine", "batch_size")
SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "rollout": pa.int32(),
        "finish_reason": pa.string(),
        "correct": pa.bool_(),
        "tokens": pa.int32(),  # generated tokens
        "output_ids": pa.list_(pa.int32()),  # null where the trace is not a correct one
        "content": pa.string(),  # Problem.content
        "prompt": pa.string(),  # incoming.prompt_name
    }
)
_METADATA = b"ssgr.kept"
# Plain ids in pages as large as zstd's window is wide: smaller than a dictionary, deltas or split bytes.
_OPTIONS = {"compression": "zstd", "compression_level": 19, "data_page_size": 1 << 24, "write_page_checksum": True}
_DICTIONARY = ["problem_id", "finish_reason", "content", "prompt"]


def keep(store: TraceStore, out: Path) -> pa.Table:
    """Writes the store's rollouts to `out` (a parquet file), problem by problem in the store's order; returns its rows.

    Raises UserError where the file is there already, no trace is correct, or a question is not known (its prompt could
    not be written again), CellError where the store is damaged.
    """
    if out.exists() or out.suffix != ".parquet":
        raise UserError(f"OUT {out}: {'is there already' if out.exists() else 'must end in .parquet'}")
    if store.damage:
        raise CellError(store.damage)
    places = {problem.problem_id: place for place, problem in enumerate(store.problems) if problem.question}
    rows = store.index.assign(place=store.index["problem_id"].map(places))
    unknown = rows.loc[rows["place"].isna(), "problem_id"].nunique()
    if unknown:
        raise UserError(f"{store.folder}: {unknown:,} problems have no question: import it with --problems FILE first")
    rows = rows.sort_values(["place", "rollout"], ignore_index=True)
    right = (rows["correct"].eq(True) & (rows["finish_reason"] == "stop")).to_numpy(bool)
    if not right.any():
        raise UserError(f"{store.folder}: no correct trace to keep")
    columns = {name: rows[name] for name in SCHEMA.names if name in rows} | _ids(store, rows, right)
    table = pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)
    manifest = json.dumps(_manifest(store.manifest), sort_keys=True, ensure_ascii=False)
    described = table.replace_schema_metadata({_METADATA: manifest.encode()})
    write_atomically(out, lambda path: pq.write_table(described, path, use_dictionary=_DICTIONARY, **_OPTIONS))
    return table


def kept_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest in a file that `keep` wrote; None for any other path."""
    if path.suffix != ".parquet" or not path.is_file():
        return None
    try:
        return json.loads((pq.read_schema(path).metadata or {})[_METADATA])
    except (KeyError, ValueError, pa.ArrowException, OSError):
        return None


def kept_rows(path: Path, problems: Mapping[str, Problem], template: PromptTemplate) -> Iterator[Incoming]:
    """The rollouts of a file that `keep` wrote, with their prompts; no ids of the traces that were not kept.

    Raises UserError, with file and row, where a problem is not among these, its question or gold answer has changed,
    or the template writes another prompt, and where the file is damaged.
    """
    prompts: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for place, row in _rows(path):
        name = row["problem_id"]
        if name not in problems:
            raise UserError(f"{place}: problem {name!r} is not among the {len(problems):,} problems")
        if row["content"] != problems[name].content:
            raise UserError(f"{place}: problem {name!r} has another question or gold answer than the kept traces")
        if name not in prompts:
            prompts[name] = np.asarray(template.prompt_ids(problems[name].question), np.int32)
            names[name] = prompt_name(prompts[name])
        if row["prompt"] != names[name]:
            raise UserError(
                f"{place}: the prompt of problem {name!r} is not the one that was kept: the chat template, its "
                f"instruction (--instruction) or the tokenizer (--tokenizer) is another"
            )
        output = np.asarray([] if row["output_ids"] is None else row["output_ids"], np.int32)
        ended = (row["finish_reason"], name, row["rollout"], row["correct"])
        yield Incoming(place, prompts[name], output, *ended, tokens=row["tokens"])


def _ids(store: TraceStore, rows: Any, right: np.ndarray) -> dict[str, list[Any]]:
    """Columns output_ids and prompt of these rows of the store's index."""
    outputs: list[np.ndarray | None] = [None] * len(rows)
    prompts = [""] * len(rows)
    with track("keeping", len(rows)) as bar:
        for _, group in rows.groupby("part"):
            pairs = store.read(group["part"], group["row"])
            for place, (prompt, output) in zip(group.index, pairs, strict=True):
                prompts[place] = prompt_name(prompt)
                outputs[place] = output if right[place] else None
            bar.advance(len(group))
    return {"output_ids": outputs, "prompt": prompts}


def without_places(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a store's manifest says; of a path on this machine its last part."""
    places = {name: manifest[name] for name in PLACES if manifest.get(name) is not None}
    return manifest | {name: _last_part(place) for name, place in places.items()}


def _last_part(place: str) -> str:
    """Of an absolute path, and of what follows it as in a problem set's name: `/home/a/math.jsonl 1a2b`."""
    return PurePath(place).name if PurePath(place).is_absolute() else place


def _manifest(made: dict[str, Any]) -> dict[str, Any]:
    """What a store's manifest says of the traces themselves."""
    known = without_places(made)
    places = {name: known[name] for name in PLACES if known.get(name) is not None}
    return {name: made[name] for name in NAMES if name in made} | places | {KEPT: "correct"}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 1
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=SCHEMA.names):
                yield from table_rows(pa.Table.from_batches([batch]), str(path), number)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} row {number}: the file is damaged ({first_line(error)})") from None
