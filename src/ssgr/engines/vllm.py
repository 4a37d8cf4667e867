"""vLLM in a process of its own: started once, kept between the cells of a study, given each cell's weights."""

from __future__ import annotations

import atexit
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssgr.config import VllmConfig
from ssgr.engines.base import ENGINES, Engine, Finished, Generation, OnTokens, Prompts, Sampling, end_ids
from ssgr.engines.child import Child, ChildDied, ChildFailed, answers, finish
from ssgr.engines.hand_over import put_in
from ssgr.errors import CellError, UserError
from ssgr.progress import say

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel

STORED_ROWS = 256
ROUND = 1024  # max_model_len is a multiple of this, so that a slightly longer prompt needs no new start
REPETITION = {"max_pattern_size": 64, "min_pattern_size": 1, "min_count": 16}  # what counts as a loop, in tokens
GRAPHED = 512  # completions at a time up to which vLLM captures CUDA graphs by itself: beyond, it launches each kernel
WORKING_SHARE = 0.25  # of a replica's memory: activations, logits and CUDA graphs, where several share a card
START_PATIENCE = 1800.0  # seconds: a large model from a slow disk, and compiling
ENVIRONMENT = {  # one process where one card will do, nothing sent home, no compiler that takes minutes
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
ADVICE = {  # what vLLM says: what would help
    "No available memory for the cache blocks": "a larger engine.gpu_memory_utilization (now {memory:g}) would help",
    "estimated maximum model length": "a smaller cap, or a larger engine.gpu_memory_utilization (now {memory:g})",
    "Free memory on device": "others use this card: one worker for each card (hydra.launcher.n_jobs or num_gpus), or a "
    "smaller engine.gpu_memory_utilization (now {memory:g})",
    "release GPU memory while vLLM is profiling": "others use this card: the same again, or one worker for each card",
    "out of memory": "a smaller engine.max_num_seqs (now {rows}) or engine.gpu_memory_utilization (now {memory:g})",
    "longer than the maximum model length": "engine.max_model_len is too short for a prompt: a larger one, or null",
    "is greater than the derived max_model_len": "engine.max_model_len is beyond the model's context",
    "tensor parallel size": "engine.tensor_parallel_size does not fit the model or the cards",
}


@dataclass
class Server:
    """The running children (one for each replica), what they were started with, and whose weights they hold."""

    key: dict[str, Any]
    max_model_len: int
    weights: str | None  # fingerprint; None: not known
    children: list[Child] = field(default_factory=list)
    near: list[Child] = field(default_factory=list)  # those on the loaded model's card alone, which can read it there

    def close(self) -> None:
        """Asks all to end, then waits; every one is killed at last, also where waiting is interrupted."""
        with ExitStack() as closing:
            for child in self.children:
                closing.callback(child.close)
                child.stop()


_live: Server | None = None


def close_server() -> None:
    """Ends the server of this process, if there is one."""
    global _live
    server, _live = _live, None
    if server is not None:
        server.close()


def _forget_server() -> None:
    global _live
    _live = None


atexit.register(close_server)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_server)  # it is the parent's, to be used and ended by nobody else


@ENGINES.register("vllm")
class VllmEngine(Engine):
    """Generates with vLLM beside the loaded model, on the same card; starts it at the first completion asked for.

    It goes on between cells and ends with this process. Before it generates, the weights of the loaded model are put
    into it where it holds others, on the card itself or through host memory, and no new start is needed.

    Each row draws by its own seed, but its logits' last digits depend on the batch that it happens to run in. So its
    completions are not reproducible bit by bit; what is in a store stays.
    """

    name = "vllm"

    def __init__(self, config: VllmConfig, loaded: LoadedModel, *, longest: int, log_folder: Path):
        """`longest` is the largest number of new tokens that will be asked for; logs go to `log_folder`.

        `loaded` still holds the weights of its folder, which are those that a fresh start reads.
        Raises UserError where vLLM is not installed or the model does not lie on a card.
        """
        from ssgr.models.load import weights_fingerprint

        if importlib.util.find_spec("vllm") is None:
            raise UserError("engine=vllm needs vLLM: pip install 'ssgr[gpu]', or engine=hf")
        if loaded.device.type != "cuda":
            raise UserError("engine=vllm needs a CUDA device; engine=hf does without")
        self.config, self.loaded, self.longest, self.log_folder = config, loaded, longest, log_folder
        self.batch_size = STORED_ROWS
        self.folder_weights = weights_fingerprint(loaded.model)
        # Completions that are ended early are other tokens: they share no store with those of the usual engine.
        kind = "vllm, repetition_detection" if config.repetition_detection else "vllm"
        self.identity = {"engine": kind, "vllm": version("vllm"), "torch": version("torch")}

    def stream(
        self, prompts: Prompts, seeds: Sequence[int], sampling: Sampling, on_tokens: OnTokens = None
    ) -> Iterator[Finished]:
        """Finished rows as they come. Equal prompts share their keys and values.

        Raises UserError for settings that vLLM cannot start with and prompts that leave no room in the context,
        CellError where it dies or fails: what was yielded before stays good.
        """
        if not prompts:
            return
        longest = max(map(len, prompts))
        if longest >= self.loaded.context:
            raise UserError(f"a prompt has {longest} tokens; the model's context holds {self.loaded.context}")
        self._refuse_short_context(longest + sampling.max_new_tokens)
        with self._named_errors():
            server = self._server(longest + max(sampling.max_new_tokens, self.longest))
            server = self._with_weights(server)
            shares = [range(start, len(prompts), len(server.children)) for start in range(len(server.children))]
            before = time.monotonic()  # not later: a child may have answered before we go on
            for child, share in zip(server.children, shares, strict=True):
                child.send(
                    "generate",
                    prompts=[[int(token) for token in prompts[row]] for row in share],
                    seeds=[int(seeds[row]) % 2**63 for row in share],
                    sampling=self._sampling(sampling),
                    repetition=REPETITION if self.config.repetition_detection else None,
                )
            for number, (now, part) in answers(server.children):
                # The child's clock is ours, and its work goes on while what came before is graded and stored.
                self.seconds, before = self.seconds + max(0.0, now - before), max(before, now)
                rows = [shares[number][row] for row, _, _ in part]
                made = [Generation(output_ids, reason) for _, output_ids, reason in part]
                if on_tokens:
                    on_tokens(sum(len(generation.output_ids) for generation in made), len(made))
                if rows:
                    yield rows, made

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        return options | {"stop_token_ids": end_ids(self.loaded)}

    def _refuse_short_context(self, needed: int) -> None:
        """UserError where engine.max_model_len would cut completions short of their cap: a store names only the cap."""
        given, needed = self.config.max_model_len, min(needed, self.loaded.context)
        if given is not None and given < needed:
            line = "the longest prompt and its max_new_tokens, or null"
            raise UserError(f"engine.max_model_len={given} is too short: it must be at least {needed}, {line}")

    def _server(self, needed: int) -> Server:
        """The running server where it is this model's and long enough, else a new one."""
        global _live
        config = self.config
        key = {
            "weights": self.loaded.weights_hash,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "device": str(self.loaded.device),
            **{name: getattr(config, name) for name in config.__dataclass_fields__},
        }
        needed = config.max_model_len or min(needed, self.loaded.context)
        if _live is not None and (_live.key != key or _live.max_model_len < needed):
            close_server()
        if _live is None:
            length = config.max_model_len or min(-(-needed // ROUND) * ROUND, self.loaded.context)
            _live = self._start(Server(key, length, self.folder_weights), self.loaded.folder)
        return _live

    def _start(self, server: Server, folder: Path) -> Server:
        """Starts the server's children with the weights in `folder`."""
        config, replicas = self.config, self.config.data_parallel_size
        share = config.gpu_memory_utilization / config.replicas_per_card
        options = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "dtype": server.key["dtype"],
            "trust_remote_code": self.loaded.trust_remote_code,
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": share,
            "max_num_seqs": config.max_num_seqs,
            "max_model_len": server.max_model_len,
            "enforce_eager": config.enforce_eager,
        }
        if config.max_num_seqs > GRAPHED and not config.enforce_eager:
            options["compilation_config"] = {"max_cudagraph_capture_size": config.max_num_seqs}
        if config.replicas_per_card > 1:
            options["kv_cache_memory_bytes"] = self._cache_bytes(share)
        size = config.tensor_parallel_size
        cards = visible_cards(self.loaded.device.index or 0, -(-replicas // config.replicas_per_card) * size)
        say(f"starting vLLM ({copies_text(replicas, len(cards))}): a minute or two")
        try:
            for replica, log in enumerate(self._logs()):
                first = replica // config.replicas_per_card * size
                mine = cards[first : first + size]
                environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ",".join(mine)}
                if config.tensor_parallel_size > 1:
                    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
                server.children.append(Child("ssgr.engines.vllm_child", log, environment))
                if mine == cards[:1]:
                    server.near.append(server.children[-1])
            for child in server.children:
                child.send("start", options=options)
            finish(server.children, START_PATIENCE)
        except BaseException:
            server.close()
            raise
        return server

    def _cache_bytes(self, share: float) -> int:
        """What a replica that shares its card may take for keys and values, of its share of the card's memory.

        Given in bytes, because vLLM measures what is free only where nobody else starts on the card meanwhile.
        Raises UserError where the weights and the room to work in leave nothing.
        """
        import torch

        total = torch.cuda.mem_get_info(self.loaded.device)[1]
        weights = sum(weight.numel() for weight in self.loaded.model.parameters()) * self.loaded.dtype.itemsize
        left = int(share * total * (1 - WORKING_SHARE)) - weights
        if left <= 0:
            raise UserError(
                f"engine.replicas_per_card={self.config.replicas_per_card}: a share of {share * total / 1e9:.1f} GB "
                f"holds no copy of the model and its keys and values; fewer, or a larger engine.gpu_memory_utilization"
            )
        return left

    def _with_weights(self, server: Server) -> Server:
        """The server with the loaded model's linears in it: put there where it holds others."""
        from ssgr.models.load import weights_fingerprint

        wanted = weights_fingerprint(self.loaded.model)
        if server.weights == wanted:
            return server
        server.weights = None  # until all replicas have them
        refusal = put_in(self.loaded.model, server, wanted)
        if refusal is not None:
            say(f"vLLM {self.identity['vllm']} takes no new weights while it runs ({refusal}): it is started anew")
            return self._start_anew(Server(server.key, server.max_model_len, wanted))
        server.weights = wanted
        return server

    def _start_anew(self, server: Server) -> Server:
        """Starts with the loaded model's weights as they stand, which are written for it."""
        global _live
        from ssgr.models.precision import weights_in
        from ssgr.models.save import write_model

        close_server()
        loaded = self.loaded
        with tempfile.TemporaryDirectory(prefix="ssgr-") as folder, weights_in(loaded.model, loaded.dtype):
            write_model(loaded.model, loaded.tokenizer, Path(folder) / "model")
            _live = self._start(server, Path(folder) / "model")
        return _live

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns what the child said, or its end, into one line that names the setting or the log.

        Whatever happened, also an interruption: a child in the middle of a request is of no use any more.
        """
        try:
            yield
        except (UserError, CellError):
            raise
        except BaseException as error:
            logs = ", ".join(map(str, self._logs()))
            close_server()
            if isinstance(error, ChildDied):
                raise CellError(f"vLLM's process ended ({error}); its log: {logs}") from None
            if isinstance(error, ChildFailed):
                raise self._explained(str(error), logs) from None
            raise

    def _logs(self) -> list[Path]:
        """What each replica of this process writes to."""
        replicas = range(self.config.data_parallel_size)
        return [self.log_folder / f"vllm-{os.getpid()}-{replica}.log" for replica in replicas]

    def _explained(self, said: str, logs: str) -> UserError | CellError:
        values = {"memory": self.config.gpu_memory_utilization, "rows": self.config.max_num_seqs}
        for part, advice in ADVICE.items():
            if part in said:
                return UserError(f"engine=vllm: {said[:200]}: {advice.format(**values)}; log: {logs}")
        return CellError(f"vLLM failed: {said[:300]}; its log: {logs}")


def copies_text(replicas: int, cards: int) -> str:
    """2 copies on 1 card."""
    return f"{replicas} cop{'y' if replicas == 1 else 'ies'} on {cards} card{'s' * (cards > 1)}"


def visible_cards(first: int, count: int) -> list[str]:
    """The names of `count` cards from number `first` on, as CUDA_VISIBLE_DEVICES has them; UserError for too few."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = named or [str(number) for number in range(torch.cuda.device_count())]
    if first + count > len(names):
        raise UserError(
            f"engine.tensor_parallel_size x engine.data_parallel_size asks for {count} cards from number {first} on; "
            f"there are {len(names)}"
        )
    return names[first : first + count]
