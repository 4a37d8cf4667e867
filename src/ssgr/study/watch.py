"""The progress line of a study, from what its cells leave on disk: the same on one machine and on many."""

import sys
import threading
import time
from collections.abc import Sequence

from rich.console import Console

from ssgr import resume
from ssgr.cell import Cell

EVERY = 1.0  # seconds between two looks
SILENCE = 120.0  # seconds after which the line is said again though no cell has ended


class Watch:
    """Says how far the study is whenever a cell ends, and now and then in between.

    Time left is the time so far times the cells left per cell that ended, so it holds for any number of processes.
    """

    def __init__(self, cells: Sequence[Cell]):
        self.total = len(cells)
        self.left: list[Cell] = []
        self.since = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        return self

    def begin(self, left: Sequence[Cell]) -> None:
        """Starts watching these cells: the ones that have to be run."""
        self.left, self.since = list(left), time.time()
        if len(self.left) > 1:
            self._console = Console(file=sys.stderr)  # as it is now: a cell's log may take its place later
            self._say(f"{self.total} cells: {self.total - len(self.left)} stand, {len(self.left)} are to be run")
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        before, said = 0, time.time()
        while not self._stop.wait(EVERY):
            done = sum(map(self._has_ended, self.left))
            if done != before or time.time() - said > SILENCE:
                before, said = done, time.time()
                if done < len(self.left):
                    self._say(self.line(done))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def line(self, done: int) -> str:
        running = sum(self._is_new(resume.marker(cell)) and not self._has_ended(cell) for cell in self.left)
        waiting = len(self.left) - done - running
        text = f"{self.total - len(self.left) + done} of {self.total} cells done, {running} running, {waiting} waiting"
        if done:
            seconds = (time.time() - self.since) / done * (len(self.left) - done)
            text += f", about {spoken(seconds)} left"
        return text

    def _has_ended(self, cell: Cell) -> bool:
        return self._is_new(cell.folder / "result.json") or self._is_new(cell.folder / "failure.json")

    def _is_new(self, path) -> bool:
        try:
            return path.stat().st_mtime >= self.since
        except OSError:
            return False


def spoken(seconds: float) -> str:
    """A time as a person would say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
