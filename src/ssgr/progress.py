"""One progress line for everything that lasts: a live bar on a terminal, a plain line now and then in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_INTERVAL = 15.0  # seconds between two lines where nobody watches a bar

console = Console(stderr=True)


class Output(Console):
    """Standard output, for tables and reports; raises OSError where it is closed, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("nobody reads it any more")


@contextmanager
def written_or_said(lost: str) -> Iterator[Output]:
    """Standard output; where it is closed or full, that is said, with what lies elsewhere, and the program goes on."""
    try:
        yield Output(soft_wrap=True)
        sys.stdout.flush()
    except (OSError, UnicodeError) as error:
        say(f"the output could not be written ({error}); {lost}")
        with suppress(OSError, ValueError, AttributeError):  # what is still in its buffer must not fail at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def visible(text: str, kept: str = "\n\t") -> str:
    """A text from models or data with its control characters, but for those `kept`, as escapes that can be read."""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def say(line: str) -> None:
    """One plain line to the person who watches, on standard error."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """Counts what is done; `note` is free text beside it, such as a rate."""

    def __init__(self, description: str, total: int, live: Progress | None):
        self.description, self.total, self.done = description, total, 0
        self._live = live
        self._task = live.add_task(description, total=total, note="") if live else None
        self._started = self._last_line = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        if self._live is not None:
            self._live.update(self._task, advance=steps, **({"note": note} if note else {}))
            return
        now = time.monotonic()
        if now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            # the first step may be long in coming, and says nothing yet of the next
            left = (now - self._started) / self.done * (self.total - self.done) if self.done else None
            words = [f"{self.description}: {self.done}/{self.total}", note, left and f"{left:.0f} s left"]
            print(*filter(None, words), file=sys.stderr, flush=True)

    def token_rate(self) -> Callable[[int, int], None]:
        """For an engine's `on_tokens`: advances by finished rows, with the tokens per second so far beside it."""
        started, tokens = time.monotonic(), 0

        def on_tokens(new_tokens: int, finished_rows: int) -> None:
            nonlocal tokens
            tokens += new_tokens
            self.advance(finished_rows, f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s")

        return on_tokens


@contextmanager
def track(description: str, total: int) -> Iterator[Bar]:
    """A bar of `total` steps for as long as the block runs; call `bar.advance(steps, note)` inside it."""
    if not console.is_terminal:
        yield Bar(description, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as live:
        yield Bar(description, total, live)
