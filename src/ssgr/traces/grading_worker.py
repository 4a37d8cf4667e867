"""math-verify in child processes, so that no answer can take more time or memory than it may.

math-verify (sympy) can take for ever on an answer such as 9^{9^{9^9}}, and its own time limit, a signal handler,
works neither outside the main thread nor inside one long multiplication. The system ends the child instead; the
answer that it died of is wrong, and the next one gets a new child.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

ANSWER_SECONDS = 2  # of processor time; the slowest honest answers of 4,000 rollouts took 0.6

_PROGRAM = Path(__file__).with_name("math_verify_worker.py")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def verify(answer: str, gold: str) -> bool:
    """Whether math-verify takes both for the same; False where that takes more than ANSWER_SECONDS or its memory.

    Safe in any thread and in forked processes. Raises RuntimeError where math-verify does not start at all.
    """
    return _workers.verify(answer, gold)


def keep_one() -> None:
    """Ends the idle children but one: each holds some 100 MB."""
    _workers.close(keep=1)


class _Worker:
    """One child process; not for two threads at a time."""

    def __init__(self):
        command = [sys.executable, "-P", str(_PROGRAM)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, encoding="utf-8", **pipes)
        if self.process.stdout.readline().strip() != "ready":
            self.close()
            raise RuntimeError(f"math-verify does not start: try {' '.join(command)}")

    def ask(self, answer: str, gold: str) -> str:
        """`true` or `false`; empty where the child died of it. The pipe is ASCII: JSON escapes all the rest."""
        request = json.dumps({"answer": answer, "gold": gold, "seconds": ANSWER_SECONDS})
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline().strip()
        except BrokenPipeError:
            return ""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of a request that was never read
                pipe.close()


class _Workers:
    """Idle children, and never more at work than there are processors."""

    def __init__(self):
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(max(cores(), 1))

    def verify(self, answer: str, gold: str) -> bool:
        with self._places:
            worker = self._take()
            reply = ""
            try:
                reply = worker.ask(answer, gold)
            finally:
                if reply:
                    with self._lock:
                        self._idle.append(worker)
                else:  # it died, or we were interrupted: its reply must not answer the next request
                    worker.close()
        return reply == "true"

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.close()  # somebody else ended it while it had nothing to do
        return _Worker()

    def close(self, keep: int = 0) -> None:
        with self._lock:
            surplus, self._idle = self._idle[keep:], self._idle[:keep]
        for worker in surplus:
            worker.close()

    def forget(self) -> None:
        """In a forked child: the processes are the parent's, and a lock may have been held at the fork."""
        null = os.open(os.devnull, os.O_RDWR)
        for worker in self._idle:
            worker.process.returncode = 0  # not ours to wait for
            for pipe in (worker.process.stdin, worker.process.stdout):
                os.dup2(null, pipe.fileno())  # else a child of the parent would outlive it, held by our end of its pipe
        os.close(null)
        self.__init__()


_workers = _Workers()
atexit.register(_workers.close)
os.register_at_fork(after_in_child=_workers.forget)
