"""The files of SGLang's reasoning-aware-compression example, to and from a store.

A folder with traces.jsonl, one row per trace {input_ids, num_prompt_tokens, num_decode_tokens, text}: prompt and
completion in one list, `text` all of it as the tokenizer decodes it (left out where the collector was told so); and
rac_manifest.json, which says where they come from (sgl-project/sglang pull request 32414). Rows say neither a
problem nor how a completion ended.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssgr.cache import read_json, write_atomically, write_json
from ssgr.errors import UserError
from ssgr.progress import track
from ssgr.traces.kept import KEPT
from ssgr.traces.parts import id_arrays
from ssgr.traces.store import TraceStore

TRACES, MANIFEST = "traces.jsonl", "rac_manifest.json"


def manifest_beside(source: Path) -> dict[str, Any]:
    """A store's manifest for traces from this path: what a rac_manifest.json there says, else nothing known."""
    folder = source if source.is_dir() else source.parent
    theirs = read_json(folder / MANIFEST)
    return {
        "model": (theirs or {}).get("model_path") or source.stem,
        "path": (theirs or {}).get("model_path"),
        "revision": None,
        "weights": None,
        "sampling": _sampling(theirs or {}),
        "seed": (theirs or {}).get("seed"),
        "problem_set": (theirs or {}).get("dataset") or source.name,
        "rac_manifest": theirs,
    }


def described(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of traces that came in SGLang's form: their engine is known by it."""
    return manifest | {"engine": {"engine": "sglang"}}


def export(
    store: TraceStore,
    out: Path,
    decode: Callable[[list[int]], str] | None,
    only_correct: bool = False,
    with_text: bool = True,
) -> dict[str, Any]:
    """Writes the store's traces as SGLang does, in the order in which they were stored; returns rac_manifest.json.

    A row's text is the one that came with it, else `decode` of its ids, else left out (with_text=False: all are).
    Raises UserError where the folder holds such files already, no trace is chosen, or not all their ids were kept.
    """
    out = Path(out).expanduser()
    for name in (TRACES, MANIFEST):
        if (out / name).exists():
            raise UserError(f"OUT {out}: holds {name} already; name another folder")
    rows = store.index
    if only_correct:
        rows = rows[rows["correct"].eq(True) & (rows["finish_reason"] == "stop")]
    elif store.manifest.get(KEPT):
        raise UserError(f"{store.folder}: keeps the ids of its correct traces alone: --correct exports them")
    if rows.empty:
        raise UserError(f"{store.folder}: no {'correct ' if only_correct else ''}trace to export")
    counts = {"num_prompt_tokens": int(rows["prompt_tokens"].sum()), "num_decode_tokens": int(rows["tokens"].sum())}
    manifest = _rac_manifest(store, rows) | {"num_rows": len(rows), **counts}
    manifest["num_total_tokens"] = sum(counts.values())
    places = {part: group["row"].to_numpy() for part, group in rows.groupby("part")}
    write_atomically(out / TRACES, lambda path: _write_rows(path, store, places, decode, with_text))
    write_json(out / MANIFEST, manifest)
    return manifest


def _write_rows(path: Path, store: TraceStore, places: dict[str, Any], decode: Any, with_text: bool) -> None:
    total = sum(len(rows) for rows in places.values())
    with open(path, "w", encoding="utf-8") as file, track("exporting", total) as bar:
        for part in store.parts:
            if part in places:
                for row in _sglang_rows(store.table(part).take(places[part]), decode, with_text):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                bar.advance(len(places[part]))


def _sglang_rows(table: Any, decode: Callable[[list[int]], str] | None, with_text: bool) -> Iterator[dict[str, Any]]:
    kept = table.column("text").to_pylist() if "text" in table.column_names else [None] * len(table)
    for prompt, output, text in zip(id_arrays(table, "prompt_ids"), id_arrays(table, "output_ids"), kept, strict=True):
        ids = [*prompt.tolist(), *output.tolist()]
        row = {"input_ids": ids, "num_prompt_tokens": len(prompt), "num_decode_tokens": len(output)}
        if text is None and decode is not None:
            text = decode(ids)
        yield row | ({} if text is None or not with_text else {"text": text})


def _rac_manifest(store: TraceStore, rows: Any) -> dict[str, Any]:
    """The manifest that came with the traces, or one in its form; null for what the store does not know."""
    made = store.manifest
    if made.get("rac_manifest"):
        return dict(made["rac_manifest"])
    sampling = made.get("sampling") or {}
    tokens = int(rows["prompt_tokens"].sum() + rows["tokens"].sum())
    return {
        "model_path": made.get("path") or made.get("model"),
        "calibration_mode": "rac",
        "dataset": made.get("problem_set"),
        "prompt_column": "question",
        "system_prompt": None,
        "num_rows": 0,
        "num_prompt_tokens": 0,
        "num_decode_tokens": 0,
        "num_total_tokens": 0,
        "target_tokens": tokens,
        "num_generations": int(rows["rollout"].max()) + 1,
        "max_new_tokens": sampling.get("max_new_tokens"),
        "temperature": sampling.get("temperature"),
        "top_p": sampling.get("top_p"),
        "seed": made.get("seed"),
        "elapsed_seconds": None,
    }


def _sampling(theirs: dict[str, Any]) -> dict[str, Any] | None:
    names = ("temperature", "top_p", "max_new_tokens")
    return {name: theirs[name] for name in names} if all(name in theirs for name in names) else None
