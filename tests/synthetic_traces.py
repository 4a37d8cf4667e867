"""Small problem sets, stores and a scripted engine for the tests of traces and calibration."""

from types import SimpleNamespace

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssgr.config import DifficultyConfig, LengthConfig, RolloutsConfig, SelectionConfig
from ssgr.engines.base import Engine, Generation
from ssgr.traces.problems import Problem
from ssgr.traces.store import Trace, TraceStore

R1_STYLE_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}"
    "<|assistant|>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def byte_tokenizer(chat_template=R1_STYLE_TEMPLATE):
    """One token per byte, and R1's way of special tokens: the thinking tags are added tokens but not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"])
    core.add_tokens(["<think>", "</think>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|eos|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_problems(count, **fields):
    return [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1), **fields) for i in range(count)]


def make_view(folder, lengths, prompt_tokens=4, levels=None):
    """A view of a store from {problem_id: [generated length, or minus that length where the trace is wrong]}."""
    levels = levels or {}
    problems = [Problem(name, f"Q {name}", "1", level=levels.get(name)) for name in lengths]
    store = TraceStore.open(folder, {})
    store.set_problems(problems)
    store.append(
        [
            Trace(name, rollout, range(prompt_tokens), [abs(n) % 250] * abs(n), "stop", n > 0, "1")
            for name, row in lengths.items()
            for rollout, n in enumerate(row)
        ]
    )
    return store.view(problems, max(map(len, lengths.values())))


def selection(correctness="correct", max_traces_per_problem=1, balance=(), matched=False):
    return SelectionConfig(correctness, max_traces_per_problem, list(balance), matched)


def difficulty(pass_rate=None, level=None, name="d"):
    return DifficultyConfig(name, pass_rate, level)


def length(percentile=None, within="store", tokens=None, name="l", pick=None):
    return LengthConfig(name, percentile, within, tokens, pick)


def rollouts(problems=5, k=3, name="fresh", seed=0, split=False):
    return RolloutsConfig(name, problems, k, temperature=0.6, top_p=0.95, max_new_tokens=64, seed=seed, split=split)


class ScriptedEngine(Engine):
    """Answers every prompt; whether rightly depends on the row's seed. Raises before batch number `fails_at`."""

    name = "scripted"
    identity = {"engine": "scripted", "version": "1"}  # noqa: RUF012

    def __init__(self, tokenizer, problems, batch_size=4, fails_at=None):
        self.tokenizer, self.batch_size, self.fails_at = tokenizer, batch_size, fails_at
        self.answers = {problem.question: problem.answer for problem in problems}
        self.batches = []

    def stream(self, prompts, seeds, sampling, on_tokens=None):
        for start in range(0, len(prompts), self.batch_size):
            if self.fails_at == len(self.batches):
                raise KeyboardInterrupt
            rows = range(start, min(start + self.batch_size, len(prompts)))
            self.batches.append([seeds[row] for row in rows])
            made = [self._generate(list(prompts[row]), seeds[row]) for row in rows]
            if on_tokens:
                on_tokens(sum(len(g.output_ids) for g in made), len(made))
            yield list(rows), made

    def _generate(self, prompt, seed):
        text = self.tokenizer.decode(prompt)
        answer = next(answer for question, answer in self.answers.items() if question in text)
        if seed % 5 == 4:
            return Generation(self.tokenizer("hmm " * 10, add_special_tokens=False)["input_ids"], "length")
        answer = answer if seed % 2 else f"{answer}9"
        text = f"{'so ' * (seed % 7)}\n</think>\n\n\\boxed{{{answer}}}"
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Generation([*ids, self.tokenizer.eos_token_id], "stop")


def stub_model(tokenizer, weights_hash="w1", name="stub"):
    return SimpleNamespace(
        tokenizer=tokenizer, weights_hash=weights_hash, think_end="</think>", name=name, revision=None
    )
