"""A child process of ours and the channel to it: one request at a time, its answers as they come.

What runs in the child may crash or be killed without harm to the program: it is noticed within a second. One that
hangs is killed when it was silent for too long.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

STOP_SECONDS = 30.0  # to end by itself, after which it is killed
DEATH_SECONDS = 10.0  # to be gone then, unless it is stuck in a driver
LISTEN_SECONDS = 1.0
PATIENCE = 300.0  # seconds of silence, after which a child is taken to hang


class ChildDied(Exception):
    """The child ended without an answer: the exit status, or the signal that killed it."""


class ChildFailed(Exception):
    """The child answered with an error: its one line."""


class Child:
    """`python -m module` with a channel, its output in `log`, in a process group of its own that ends with it.

    Neither it nor what it starts looks for modules where the user stands: a torch.py there is none of ours.
    """

    def __init__(self, module: str, log: Path, environment: dict[str, str] | None = None):
        ours, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us; and its own children can be ended with it
            )
        theirs.close()
        self.log, self.connection, self.deadline = log, Connection(ours.detach()), None

    def send(self, request: str, **arguments: Any) -> None:
        """Asks for `request`; ChildDied where nobody is there to be asked."""
        try:
            self.connection.send((request, arguments))
        except OSError:
            raise self._died() from None

    def receive(self) -> tuple[str, Any]:
        """The next answer, (`part` | `done`, payload). Raises ChildFailed and ChildDied."""
        try:
            kind, payload = self.connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "error":
            raise ChildFailed(payload)
        return kind, payload

    def stop(self) -> None:
        """Asks the child to end; `close` waits until it has. Twice does no harm."""
        with suppress(OSError):
            self.connection.send(("stop", {}))
        with suppress(OSError):
            self.connection.close()
        self.deadline = self.deadline or time.monotonic() + STOP_SECONDS

    def close(self) -> None:
        """Ends the child: asks it to, and kills it where it does not answer. Twice does no harm."""
        self.stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, self.deadline - time.monotonic()))
        finally:
            # Also where it ended by itself, since what it started must not outlive it, and at a second Ctrl-C.
            self.kill()

    def kill(self) -> None:
        """Ends the child and what it started at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEATH_SECONDS)

    def _died(self) -> ChildDied:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.poll()
        if code is None:
            return ChildDied("it closed its channel")
        return ChildDied(f"killed by signal {-code}" if code < 0 else f"exit status {code}")


def answers(children: Sequence[Child], patience: float | None = None) -> Iterator[tuple[int, Any]]:
    """(number of the child, payload) of every part that these children answer, until all are done.

    A child that says nothing for `patience` seconds (default: PATIENCE) is killed. Only seconds that were spent
    listening count: not what the reader of these answers takes, nor what a computer was asleep.
    """
    patience = PATIENCE if patience is None else patience
    open_ = {child.connection: number for number, child in enumerate(children)}
    silent = dict.fromkeys(open_, 0.0)
    while open_:
        started = time.monotonic()
        ready = wait(list(open_), timeout=LISTEN_SECONDS)
        listened = min(time.monotonic() - started, LISTEN_SECONDS)
        silent = {connection: 0.0 if connection in ready else silent[connection] + listened for connection in open_}
        for connection in ready:
            number = open_[connection]
            kind, payload = children[number].receive()
            if kind == "done":
                del open_[connection]
            else:
                yield number, payload
        for connection, number in open_.items():
            # A child whose own children keep the channel open would never be noticed otherwise.
            if children[number].process.poll() is not None and not connection.poll():
                raise children[number]._died()
            if silent[connection] > patience:
                children[number].kill()
                raise ChildDied(f"killed after {patience:g} s without a sign of life")


def finish(children: Sequence[Child], patience: float | None = None) -> None:
    """Waits until they have done what they were asked to. Raises what `answers` does."""
    for _ in answers(children, patience):
        pass


def serve(descriptor: int, handlers: dict[str, Callable[..., Iterator[Any]]]) -> None:
    """The child's side: answers requests until there is nobody left to ask, or it is told to stop.

    A handler is a generator; what it yields is sent at once, while it goes on. The channel is not inherited by what the
    child starts.
    """
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    with suppress(EOFError, OSError), closing(_Sender(connection)) as sender:
        while True:
            request, arguments = connection.recv()
            if request == "stop":
                return
            for answer in _answers_of(handlers[request], arguments):
                sender.send(answer)


class _Sender:
    """Sends in a thread of its own: a full channel, whose reader is busy grading, must not stop a running engine."""

    def __init__(self, connection: Connection):
        self.connection, self.waiting, self.gone = connection, SimpleQueue(), False
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def send(self, answer: tuple[str, Any]) -> None:
        """Soon; BrokenPipeError where an earlier one found nobody to read it."""
        if self.gone:
            raise BrokenPipeError
        self.waiting.put(answer)

    def close(self) -> None:
        """Waits until all is sent."""
        self.waiting.put(None)
        self.thread.join()

    def _run(self) -> None:
        try:
            for answer in iter(self.waiting.get, None):
                self.connection.send(answer)
        except OSError:
            self.gone = True


def _answers_of(handler: Callable[..., Iterator[Any]], arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is sent for one request. Whatever the handler raises is an answer; what sending raises is none."""
    parts = handler(**arguments)
    while True:
        try:
            part = next(parts)
        except StopIteration:
            yield "done", None
            return
        except BaseException as error:
            _log(error)
            yield "error", _line(error)
            return
        yield "part", part


def _log(error: BaseException) -> None:
    import traceback

    print(time.strftime("%H:%M:%S"), "".join(traceback.format_exception(error)), flush=True)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
