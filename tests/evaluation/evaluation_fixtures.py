"""A JSONL task, an engine that replays given texts, and everything else that an evaluation needs."""

import json
from types import SimpleNamespace

import torch
from synthetic_traces import byte_tokenizer

from ssgr.config import TaskConfig
from ssgr.engines.base import Engine, Generation
from ssgr.traces.prompts import PromptTemplate

THINK_END = "</think>"


def make_template() -> PromptTemplate:
    return PromptTemplate(byte_tokenizer(), "Put the answer in a box.", THINK_END)


def make_loaded(template: PromptTemplate, model=None):
    model = model or SimpleNamespace(dtype=torch.float32)
    return SimpleNamespace(
        model=model,
        dtype=model.dtype,
        tokenizer=template.tokenizer,
        name="stub",
        weights_hash="w0",
        think_end=THINK_END,
        device=torch.device("cpu"),
        context=512,
    )


def write_problems(path, count: int) -> list[dict]:
    rows = [{"id": f"p{i}", "problem": f"What is {i} plus {3 * i}?", "gold": str(4 * i)} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return rows


def make_config(path, **changes) -> TaskConfig:
    values = {
        "name": "jsonl",
        "also": [],
        "path": path and str(path),
        "dataset": None,
        "first": None,
        "question_field": "problem",
        "answer_field": "gold",
        "solution_field": None,
        "instruction": None,
        "repeats": 1,
        "dense_repeats": 2,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_new_tokens": 64,
        "seed": 7,
        "divergence": True,
    }
    return TaskConfig(**(values | changes))


def solution_text(gold: str) -> str:
    return f"let me think, \\boxed{{0}} no.\n{THINK_END}\n\nSo it is \\boxed{{{gold}}}."


class ReplayEngine(Engine):
    """Answers each prompt with what `reply(problem number, seed)` returns: (text, finish reason)."""

    name, batch_size, identity = "replay", 4, {"engine": "replay"}

    def __init__(self, template, rows, reply, fail_at_call=None):
        self.numbers = {tuple(template.prompt_ids(row["problem"])): number for number, row in enumerate(rows)}
        self.template, self.reply, self.fail_at_call = template, reply, fail_at_call
        self.calls: list[list[int]] = []
        self.seeds: list[int] = []

    def stream(self, prompts, seeds, sampling, on_tokens=None):
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            made = self._batch(prompts[rows], seeds[rows], sampling, on_tokens)
            yield list(range(start, start + len(made))), made

    def _batch(self, prompts, seeds, sampling, on_tokens):
        if self.fail_at_call is not None and len(self.calls) == self.fail_at_call:
            raise KeyboardInterrupt
        numbers = [self.numbers[tuple(prompt)] for prompt in prompts]
        self.calls.append(numbers)
        self.seconds += 2.0
        self.seeds += seeds
        self.sampling = sampling
        outputs = []
        for number, seed in zip(numbers, seeds, strict=True):
            text, finish_reason = self.reply(number, seed)
            ids = self.template.completion_ids(text)
            outputs.append(Generation(ids if finish_reason == "stop" else ids[:-1], finish_reason))
            if on_tokens:
                on_tokens(len(ids), 1)
        return outputs


def oracle(template, rows, shift=0, **options) -> ReplayEngine:
    return ReplayEngine(
        template,
        rows,
        lambda number, seed: (solution_text(rows[(number + shift) % len(rows)]["gold"]), "stop"),
        **options,
    )
