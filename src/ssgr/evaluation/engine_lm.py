"""An lm-eval model: completions from an Engine, log-likelihoods from the loaded weights."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ssgr.engines.base import Engine, Generation, Sampling
from ssgr.errors import UserError
from ssgr.evaluation.scoring import score
from ssgr.progress import track
from ssgr.traces.prompts import PromptTemplate, answer_text
from ssgr.traces.store import row_seed

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel


class EngineLM(TemplateLM):
    """Answers what any task of lm-eval may ask, as lm-eval's own model for transformers does.

    `most` is the largest number of tokens that a completion may have, whatever a task asks for. `truncated` says of
    each completion, by its task, whether it was cut or its reasoning never ended. `template` writes chats; without one
    a task is put as plain text.
    """

    def __init__(
        self, engine: Engine, loaded: "LoadedModel", most: int, seed: int, template: PromptTemplate | None = None
    ):
        super().__init__()
        self.engine, self.loaded, self.most, self.seed = engine, loaded, most, seed
        self.tokenizer, self.template = loaded.tokenizer, template
        self.think_end = template.think_end if template else loaded.think_end
        self.truncated: dict[str, list[bool]] = defaultdict(list)

    @property
    def eot_token_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise UserError("evaluation=lm_eval: the model's tokenizer names no end-of-sequence token (eos_token)")
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval, which keeps no requests here."""
        return self.loaded.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as the model's own template writes it, up to where the model goes on, or within its last turn."""
        goes_on = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return self.tokenizer.apply_chat_template(chat_history, tokenize=False, **goes_on, **self.template.options)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Nats of each continuation after its context, and whether greedy decoding would have given it."""
        return super().loglikelihood(requests, disable_tqdm=True)  # its bar is of the tokenizer's work

    def _loglikelihood_tokens(self, requests: list[tuple], **_) -> list[tuple[float, bool]]:
        """For each ((context, continuation), context ids, continuation ids): nats, and whether greedy."""
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        scores = score(self.loaded.model, pairs, "log-likelihoods")
        return list(zip(scores.log_likelihoods.tolist(), scores.greedy.tolist(), strict=True))

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The context cut from the left to what the model can see; the continuation's last token need not be seen."""
        room = self.loaded.context + 1 - len(continuation)
        if room < 1:
            what = f"a continuation of {len(continuation)} tokens does not fit"
            raise UserError(f"evaluation.tasks: {what} into the model's context, {self.loaded.context}")
        return np.asarray(context[-room:], np.int64), np.asarray(continuation, np.int64)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows of the model's context that do not overlap."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            options = {"prefix_token": self.prefix_token_id, "max_seq_len": self.loaded.context, "context_len": 1}
            found = [make_disjoint_window(window) for window in get_rolling_token_windows(ids, **options)]
            windows += [(None, *window) for window in found]
            owners += [number] * len(found)
        scored = self._loglikelihood_tokens(windows)
        totals = np.zeros(len(requests))
        np.add.at(totals, np.asarray(owners, int), [value for value, _ in scored])
        return totals.tolist()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One text per request, in order: what follows the reasoning, cut before the first of its stop strings.

        An engine knows no stop strings: what comes after one was generated for nothing.
        """
        asked = [normalize_gen_kwargs(request.args[1]) for request in requests]
        end = self.tokenizer.decode([self.eot_token_id])
        for options in asked:
            options["until"] = handle_stop_sequences(options["until"], end)  # an end that is written out is one too
        together: dict[Sampling, list[int]] = defaultdict(list)
        for number, options in enumerate(asked):
            cap = min(options["max_gen_toks"], self.most)
            temperature = float(options["temperature"]) if options["do_sample"] else 0.0
            together[Sampling(temperature, float(options.get("top_p", 1.0)), cap)].append(number)
        texts = [""] * len(requests)
        with track("completions", len(requests)) as bar:
            for sampling, numbers in together.items():
                prompts = [self._prompt(requests[number].args[0], sampling.max_new_tokens) for number in numbers]
                made = self.engine.generate(prompts, self._seeds(requests, numbers), sampling, bar.token_rate())
                for number, generation in zip(numbers, made, strict=True):
                    texts[number], cut = self._answer(generation, asked[number]["until"])
                    self.truncated[str(requests[number].task_name)].append(cut)
        return texts

    def _answer(self, generation: Generation, until: list[str]) -> tuple[str, bool]:
        """The text to grade, none where the reasoning never ended, and whether its end is missing."""
        kept = [token for token in generation.output_ids if token not in self._silent_ids]
        text = answer_text(self.tokenizer.decode(kept), self.think_end)
        if text is None:
            return "", True
        text = text.lstrip() if self.think_end else text
        answer = postprocess_generated_text(text, until, None)
        return answer, generation.finish_reason != "stop" and answer == text

    @cached_property
    def _silent_ids(self) -> set[int]:
        """Special tokens but the tag that ends the reasoning, which some tokenizers count among them."""
        tag = self.tokenizer.encode(self.think_end or "", add_special_tokens=False)
        return set(self.tokenizer.all_special_ids) - set(tag)

    def _prompt(self, text: str, cap: int) -> list[int]:
        """Its last tokens where the text does not fit beside the completion; half the context is always the text's."""
        return self.tok_encode(text)[-max(self.loaded.context - cap, self.loaded.context // 2) :]

    def _seeds(self, requests: Sequence[Instance], numbers: Sequence[int]) -> list[int]:
        """By task, document and repeat: a request that stands several times in a row is its repeats."""
        seen: dict[tuple, int] = defaultdict(int)
        seeds = []
        for number in numbers:
            row = (str(requests[number].task_name), int(requests[number].doc_id or 0), int(requests[number].idx or 0))
            seeds.append(row_seed(self.seed, *row, seen[row]))
            seen[row] += 1
        return seeds
