"""Traces that lie somewhere: a store of this program, or files that `python -m ssgr.traces import` reads."""

from pathlib import Path
from typing import Any

from ssgr.cache import content_hash, locked
from ssgr.calibration import CalibrationRequest, CalibrationSet, source
from ssgr.calibration.selected import selected_traces
from ssgr.config import Correctness, TracesConfig
from ssgr.errors import CellError, UserError
from ssgr.traces.importing import Reading, contents_of, import_traces
from ssgr.traces.kept import KEPT, kept_manifest, without_places
from ssgr.traces.rollouts import BUNDLED, BUNDLED_NAME
from ssgr.traces.store import StoreView, TraceStore
from ssgr.traces.stores import lock_of, whole_view

WHOSE = ("model", "weights", "problem_set", "sampling")  # of a store's manifest: what result.json says of it


def traces_contents(config: TracesConfig) -> Any:
    """What names the traces: the store's parts and its problems, or the files that would be imported."""
    path = _path(config)
    try:
        return contents_of(path)
    except UserError as error:
        raise UserError(f"calibration.path={config.path}: {error}") from error


@source("traces", completions=True, selects=True, contents=traces_contents)
def traces(request: CalibrationRequest) -> CalibrationSet:
    """Selected traces of all problems of the store, whose k is its largest rollout + 1.

    Raises UserError for ids beyond this model's vocabulary and for verdicts that nobody has given, CellError where the
    bin holds too few or the store is damaged.
    """
    store = opened(request)
    if store.manifest.get(KEPT) and request.selection.correctness != Correctness.correct:
        raise UserError(
            f"selection.correctness={request.selection.correctness}: {request.config.path} keeps the ids of its "
            f"correct traces alone; use selection.correctness=correct, or the store that it was kept from"
        )
    view = whole_view(store, request.split)
    view.more = "a store with more traces"
    ungraded = _check_grades(view, request)
    chosen = selected_traces(request, view)
    _check_vocabulary(chosen, request)
    whose = without_places(store.manifest)
    chosen.details["store"] = {name: whose.get(name) for name in WHOSE}
    chosen.notes = [*_notes(store, view, request, ungraded), *chosen.notes]
    return chosen


def opened(request: CalibrationRequest) -> TraceStore:
    """The store that calibration.path names; files are imported into the cache, once."""
    path = _path(request.config)
    folder = path
    if not (path / "manifest.json").is_file():
        folder = request.cache / "traces" / content_hash(["imported", traces_contents(request.config)])
        with locked(lock_of(folder)):
            if not (folder / "manifest.json").is_file():
                import_traces(path, folder, Reading())
    store = TraceStore.open(folder)
    if store.damage:
        raise CellError(f"calibration.path={path}: {store.damage}")
    return store


def _path(config: TracesConfig) -> Path:
    if config.path is None:
        raise UserError("calibration.path is not set: it must name the folder of a store, or a file of traces")
    if config.path == BUNDLED_NAME:
        return BUNDLED
    path = Path(config.path).expanduser()
    if kept_manifest(path):
        raise UserError(
            f"calibration.path={config.path} keeps no prompts: make a store of it by python -m ssgr.traces import "
            f"{config.path} STORE --problems FILE --tokenizer DIR, and name that"
        )
    return path


def _check_grades(view: StoreView, request: CalibrationRequest) -> int:
    """How many traces nobody has graded; UserError for no trace, and for none graded where a verdict is asked for."""
    rows = view.store.index
    if rows.empty:
        raise UserError(f"calibration.path={request.config.path}: no trace in it")
    ungraded = int(rows["correct"].isna().sum())
    if ungraded == len(rows) and request.selection.correctness != Correctness.any:
        raise UserError(
            f"calibration.path={request.config.path}: none of its {ungraded:,} traces is graded; use "
            f"selection.correctness=any, or grade them by python -m ssgr.traces regrade"
        )
    return ungraded


def _check_vocabulary(chosen: CalibrationSet, request: CalibrationRequest) -> None:
    largest = max((int(sequence.max()) for sequence in chosen.sequences if len(sequence)), default=-1)
    size = len(request.template.tokenizer)
    if largest >= size:
        raise UserError(
            f"calibration.path={request.config.path}: holds token id {largest:,}, and this model's tokenizer has "
            f"{size:,}: the traces are another tokenizer's"
        )


def _notes(store: TraceStore, view: StoreView, request: CalibrationRequest, ungraded: int) -> list[str]:
    notes = []
    manifest = store.manifest
    if manifest.get("weights") != request.weights_hash:
        whose = f"{manifest.get('model') or 'an unnamed model'}'s"
        sure = "" if manifest.get("weights") else " (it does not say by which weights)"
        notes.append(f"{request.config.path} holds {whose} traces{sure}, not this model's own: off-policy")
    if ungraded:
        notes.append(f"{ungraded:,} of its {len(store.index):,} traces are not graded and count as wrong")
    held = store.index.groupby("problem_id").size().reindex([p.problem_id for p in view.problems], fill_value=0)
    fewer = int((held < view.k).sum())
    if fewer:
        notes.append(
            f"{fewer:,} of its {len(held):,} problems have fewer than {view.k} rollouts: the rest count as wrong"
        )
    return notes
