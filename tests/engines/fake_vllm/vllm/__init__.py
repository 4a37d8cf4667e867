"""Stands in for vLLM in tests: an engine that answers each prompt with numbers that its weights decide.

It takes what vLLM 0.26 takes, or what the version in FAKE_VLLM takes; `rigid` is one that takes no weights.
"""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

SHAPE = os.environ.get("FAKE_VLLM", "0.26")
OPTIONS = {  # of vLLM's that we use; it refuses others
    "model",
    "skip_tokenizer_init",
    "dtype",
    "trust_remote_code",
    "tensor_parallel_size",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_model_len",
    "enforce_eager",
    "compilation_config",
    "kv_cache_memory_bytes",
    "worker_extension_cls",
}
__version__ = "0.0"
torch.cuda.synchronize = lambda: None  # there is no card where tests run


class VLLMValidationError(Exception):
    """In later versions no ValueError any more."""


class SamplingParams(SimpleNamespace):
    def __init__(self, **options):
        super().__init__(**{"n": 1, **options})
        if self.temperature == 0 and self.n > 1:
            error = ValueError if SHAPE == "0.26" else VLLMValidationError
            raise error(f"n must be 1 when using greedy sampling, got {self.n}.")


class LLM:
    """Output ids are [sum of all weights, the prompt's first id, 7]; what the prompt asks for may go wrong instead."""

    def __init__(self, **options):
        if options["gpu_memory_utilization"] < 0.1:
            raise ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`")
        if options["gpu_memory_utilization"] > 0.9:
            raise ValueError("Free memory on device cuda:0 (30.1/79.2 GiB) on startup is less than desired")
        if unknown := sorted(set(options) - OPTIONS):
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {unknown[0]!r}")
        self.options, self.llm_engine = options, Engine()
        for path in Path(options["model"]).glob("*.safetensors"):
            self.llm_engine.keep(load_file(path).items())
        from importlib import import_module

        module, _, name = options["worker_extension_cls"].rpartition(".")
        self.worker = type("Worker", (getattr(import_module(module), name),), {"get_model": self.model})()
        card, cache = os.environ["CUDA_VISIBLE_DEVICES"], options.get("kv_cache_memory_bytes")
        print("started", sorted(options), "on card", card, "with", cache, "bytes", flush=True)
        print("to be compiled with", options.get("compilation_config"), flush=True)

    def model(self, *_):
        return self.llm_engine

    def collective_rpc(self, method, args=()):
        return [getattr(self.worker, method)(*args)]

    def reset_prefix_cache(self):
        print("prefix cache reset", flush=True)
        return True


class Engine:
    def __init__(self):
        self.waiting, self.weights, self.most = {}, {}, 0
        self.engine_core = SimpleNamespace(shutdown=lambda: print("shut down", flush=True))

    def keep(self, tensors):
        self.weights |= {name: int(tensor.float().sum()) for name, tensor in tensors}

    def load_weights(self, tensors):
        if SHAPE == "rigid":
            raise NotImplementedError("load_weights")
        self.keep(tensors)
        print("weights put in", flush=True)

    def add_request(self, request_id, prompt, params):
        self.waiting[request_id] = (prompt["prompt_token_ids"], params)
        print("request of seed", params.seed, flush=True)
        self.most = max(self.most, len(self.waiting))
        return f"{request_id}-internal"

    def get_num_unfinished_requests(self):
        return len(self.waiting)

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        request_id = next(iter(self.waiting))
        prompt, params = self.waiting.pop(request_id)
        if prompt[0] == 666:
            time.sleep(0.5)  # a token of a real model takes longer than sending what is finished
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt[0] == 667:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if prompt[0] == 668:
            time.sleep(600)
        if prompt[0] == 669:
            raise FileNotFoundError("no such weights")
        reason = "length" if params.max_tokens < 3 else "stop"
        ids = [sum(self.weights.values()), prompt[0], 7][: params.max_tokens]
        made = [SimpleNamespace(token_ids=ids, finish_reason=reason) for _ in range(params.n)]
        return [SimpleNamespace(request_id=request_id, finished=True, outputs=made)]
