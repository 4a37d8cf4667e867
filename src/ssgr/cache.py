"""Content addresses, atomic files and locks: what every room that writes to disk shares."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ssgr.progress import say


def cache_root(cache_dir: str | None) -> Path:
    """The cache folder: the option, else $SSGR_CACHE, else ~/.cache/ssgr."""
    return Path(cache_dir or os.environ.get("SSGR_CACHE") or "~/.cache/ssgr").expanduser()


def content_hash(value: Any, length: int = 16) -> str:
    """A hash of a JSON-able value that does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_hash(path: Path, length: int = 16) -> str:
    """A hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:length]


def write_atomically(path: Path, write: Callable[[Path], Any], checked: bool = False) -> Path:
    """Calls `write` with a temporary path beside `path`, syncs it and renames it, so that `path` is whole or absent.

    With checked=True its name gets a checksum, stem-<hash>.suffix, by which `is_sound` knows it later. Returns the
    path that was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors_named(path):
            write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if checked:
            path = path.with_stem(f"{path.stem}-{file_hash(temporary)}")
        os.replace(temporary, path)
        return path
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """A full disk as an OSError that names the file, whichever library met it."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not full:
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error


def is_sound(path: Path) -> bool:
    """Whether the file holds the bytes that its name was made from."""
    try:
        return path.stem.rpartition("-")[2] == file_hash(path)
    except OSError:
        return False


def remove_damaged(folder: Path, pattern: str) -> None:
    """Removes, and says so, files whose bytes are not what their names promise; the caller holds the folder's lock."""
    for path in sorted(folder.glob(pattern)):
        if not is_sound(path):
            say(f"{path} is damaged (its checksum is another): what it held is made again")
            path.unlink(missing_ok=True)


def cached_array(folder: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` returns, kept in this folder; made once, also where several processes ask at the same time."""
    with locked(folder.with_suffix(".lock")):
        remove_leftovers(folder)
        remove_damaged(folder, "array-*.npy")
        found = next(folder.glob("array-*.npy"), None)
        if found is None:
            array = make()
            found = write_atomically(folder / "array.npy", lambda path: _save_array(path, array), checked=True)
        return np.load(found, allow_pickle=False)


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would add a suffix to a path
        np.save(file, array, allow_pickle=False)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders of processes that were killed; the caller holds the folder's lock."""
    for leftover in folder.glob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file (freed by the system when its holder dies); says so when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that works on {path.stem}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
