"""The process that holds vLLM: started by engines/vllm.py, which see. Never imported by the program itself."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from ssgr.engines import card_memory
from ssgr.engines.shared_memory import Place, read_part

GROUP = 256  # finished rows that are sent together, so that what is stored lags little behind
BEAT_SECONDS = 1.0  # between signs of life, by which the child also notices that nobody listens any more
SEND_SECONDS = 20.0
QUEUED = 4  # requests that wait, in multiples of what runs at a time
GREEDY = 1e-5  # below this temperature vLLM takes the likeliest token


class WorkerExtension:
    """What vLLM adds to its workers: one in each process of a tensor-parallel engine."""

    def ssgr_load(self, path: str, places: list[Place]) -> None:
        """Copies what lies in shared memory over the parameters of the names."""
        import torch

        self.get_model().load_weights(read_part(path, places))
        torch.cuda.synchronize()  # the memory is written anew as soon as this returns

    def ssgr_take(self, handles: list[card_memory.Handle], fingerprint: str) -> None:
        """Copies what another process has on this card over the parameters of the names."""
        import torch

        self.get_model().load_weights(card_memory.opened(handles, fingerprint))
        torch.cuda.synchronize()


class Server:
    """Answers requests with one vLLM engine."""

    def start(self, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Makes the engine; yields what it came to."""
        import vllm

        started = time.monotonic()
        self.llm = vllm.LLM(**options, worker_extension_cls="ssgr.engines.vllm_child.WorkerExtension")
        self.engine = self.llm.llm_engine
        self.running = options["max_num_seqs"]
        yield {"seconds": time.monotonic() - started}

    def load(self, path: str, places: list[Place]) -> Iterator[None]:
        """Puts other weights into the engine; the keys and values of the old ones are forgotten."""
        self._put("ssgr_load", path, places)
        yield

    def take(self, handles: list[card_memory.Handle], fingerprint: str) -> Iterator[None]:
        """The same with weights that lie on this card."""
        self._put("ssgr_take", handles, fingerprint)
        yield

    def _put(self, method: str, *arguments: Any) -> None:
        self.llm.collective_rpc(method, args=arguments)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept keys and values of the old weights")

    def generate(
        self, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any], repetition: dict[str, int] | None
    ) -> Iterator[tuple[float, list[tuple[int, list[int], str]]]]:
        """Yields groups of finished rows (number, output ids, finish reason) as they come, each with the time."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = dict(sampling, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        if repetition:
            from vllm.sampling_params import RepetitionDetectionParams

            sampling["repetition_detection"] = RepetitionDetectionParams(**repetition)
        waiting = iter(requests(prompts, sampling["temperature"] < GREEDY))
        rows_of: dict[str, list[int]] = {}
        finished, sent, beat, more = [], time.monotonic(), time.monotonic(), True
        while more or self.engine.has_unfinished_requests():
            while more and self.engine.get_num_unfinished_requests() < QUEUED * self.running:
                rows = next(waiting, None)
                if rows is None:
                    more = False
                    break
                name = f"row-{rows[0]}"
                options = SamplingParams(**{"seed": seeds[rows[0]], **sampling})
                given = self.engine.add_request(name, {"prompt_token_ids": prompts[rows[0]]}, options)
                rows_of[name] = rows_of[given or name] = rows
            for output in self.engine.step():
                if output.finished:
                    finished += [_row(row, output.outputs[0]) for row in rows_of[output.request_id]]
            now = time.monotonic()
            if len(finished) >= GROUP or (finished and now - sent > SEND_SECONDS):
                yield now, finished
                finished, sent, beat = [], now, now
            elif now - beat > BEAT_SECONDS:
                yield now, []
                beat = now
        yield time.monotonic(), finished


def requests(prompts: list[list[int]], greedy: bool) -> list[list[int]]:
    """The rows that each request answers: one, but equal prompts have one greedy completion."""
    if not greedy:
        return [[row] for row in range(len(prompts))]
    same: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        same.setdefault(tuple(prompt), []).append(row)
    return list(same.values())


def _row(row: int, made: Any) -> tuple[int, list[int], str]:
    if made.finish_reason not in ("stop", "length", "repetition"):
        raise RuntimeError(f"vLLM ended a completion with {made.finish_reason!r}")
    return row, [int(token) for token in made.token_ids], made.finish_reason


def main() -> None:
    from ssgr.engines.child import serve

    server = Server()
    handlers = (server.start, server.load, server.take, server.generate)
    serve(int(sys.argv[1]), {handler.__name__: handler for handler in handlers})
    # vLLM's own threads can keep a process that merely returns; who started this ends the group anyway.
    engine = getattr(server, "engine", None)
    if engine is not None:
        engine.engine_core.shutdown()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
