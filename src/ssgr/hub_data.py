"""Data sets on the hub, streamed or downloaded. Whatever goes wrong is one line that names the local way out."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ssgr.config import HubDataset
from ssgr.data_files import Row
from ssgr.errors import UserError, first_line
from ssgr.progress import console, say

SHUFFLE_BUFFER = 10_000  # rows that a seeded stream draws from
TIMEOUT = 10.0  # seconds for the hub's first answer
MAX_REASON = 300  # characters of what a library says


class Unreachable(Exception):
    """No answer from the hub."""


def hub_contents(dataset: HubDataset) -> list[str | None]:
    """What names the data in hashes, without asking the hub: id, config, split, revision."""
    return [dataset.id, dataset.config, dataset.split, dataset.revision]


def hub_name(dataset: HubDataset) -> str:
    """The same for people: id/config/split@revision."""
    place = "/".join(part for part in (dataset.id, dataset.config, dataset.split) if part)
    return f"{place}@{dataset.revision}" if dataset.revision else place


def placed(dataset: HubDataset, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Each row of the data set with the place that messages about it name."""
    return ((f"{dataset.id} row {number}", row) for number, row in enumerate(rows, start=1))


def stream_hub(dataset: HubDataset, option: str, override: str, seed: int | None) -> Iterator[dict[str, Any]]:
    """The rows one after another, none kept on disk; with a seed in an order that follows from it.

    `option` is the config node that names the data set, `override` what to write to read a local file instead, for
    the messages. Raises UserError where the hub cannot be reached or has no such data.
    """
    with _in_one_line(dataset, option, override):
        commit = _commit(dataset)
        say(f"{option}: reading {hub_name(dataset)} from the hub")
        stream = _load(dataset, commit, streaming=True)
        if seed is not None:
            stream = stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        rows = iter(stream)
    while True:
        with _in_one_line(dataset, option, override):
            row = next(rows, None)
        if row is None:
            return
        yield row


def download_hub(dataset: HubDataset, option: str, override: str) -> Iterator[dict[str, Any]]:
    """Every row in order, from the copy that `datasets` keeps; where the hub is out of reach, that copy must do.

    Options and errors are those of `stream_hub`.
    """
    with _in_one_line(dataset, option, override):
        try:
            rows = _load(dataset, _commit(dataset))
        except Unreachable as error:
            rows = _kept_copy(dataset)
            if rows is None:
                raise
            say(f"{option}: {error}; the copy of {hub_name(dataset)} on this machine is read")
    yield from rows


def _commit(dataset: HubDataset) -> str:
    """The commit that the revision stands for now; raises Unreachable.

    Asked once and first: `datasets` would try a hub that does not answer for half a minute.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return HfApi().dataset_info(dataset.id, revision=dataset.revision, timeout=TIMEOUT).sha
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        raise Unreachable(f"the hub does not work: {first_line(error)}") from error
    except HFValidationError:
        raise
    except Exception as error:  # each version of the library raises those of another HTTP library
        raise Unreachable(f"the hub cannot be reached: {first_line(error)}") from error


def _load(dataset: HubDataset, commit: str | None, **options: Any) -> Any:
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    datasets.logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not console.is_terminal:
        datasets.disable_progress_bars()
    return datasets.load_dataset(dataset.id, dataset.config, split=dataset.split, revision=commit, **options)


def _kept_copy(dataset: HubDataset) -> Any:
    """What `datasets` keeps of an earlier download; None without one, or where it is not the revision asked for."""
    import datasets

    before, datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE, True
    try:
        rows = _load(dataset, None)
    except Exception:  # whatever is wrong with the copy, the line to show is that the hub cannot be reached
        return None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    # a copy lies in a folder that is named by its commit
    same = dataset.revision is None or all(dataset.revision in file["filename"] for file in rows.cache_files)
    return rows if same else None


@contextmanager
def _in_one_line(dataset: HubDataset, option: str, override: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the libraries' own, requests', httpx', pyarrow's and the operating system's
        what = f"{hub_name(dataset)} could not be had from the hub ({_reason(error, dataset)})"
        raise UserError(f"{option}: {what}; {override} reads a local file instead") from error


def _reason(error: Exception, dataset: HubDataset) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page and log in"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such data set, or it is private"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {dataset.revision}"
    return first_line(error)[:MAX_REASON]
