"""Run by grading.py as a child process: reads {answer, gold, seconds} lines, writes ready, then true or false for each.

The alarm has no handler, so the system ends this process when one answer takes too long, whatever it computes.
"""

import contextlib
import json
import logging
import resource
import signal
import sys

MEMORY_BYTES = 4 << 30


def main() -> None:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(request["seconds"])
        gold, answer = (
            parse(f"${request[name].strip().strip('$')}$", parsing_timeout=None) for name in ("gold", "answer")
        )
        correct = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
        signal.alarm(0)
        print(json.dumps(correct), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(ValueError, OSError):  # a lower limit may stand already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    main()
