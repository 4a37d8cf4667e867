"""Questions as the model's own chat prompts, completions as token ids, and the part of a completion that answers."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ssgr.cache import content_hash
from ssgr.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptTemplate:
    """The tokenizer's chat template with one instruction after every question, in calibration and evaluation alike.

    `think_end` is the tag that ends the reasoning, None for models that reason in plain text. `enable_thinking` is
    handed to templates that know it (Qwen3); None leaves them their default. A template writes prompts only, never
    completions: many drop the reasoning of an assistant's turn, so a completion is always the ids that were sampled.
    Raises UserError where the tokenizer has no chat template or the template cannot be used.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        instruction: str,
        think_end: str | None,
        enable_thinking: bool | None = None,
    ):
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("the model's tokenizer has no chat template, so a question cannot be put to it")
        self.tokenizer, self.instruction = tokenizer, instruction
        self.options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        ended = think_end is not None and self._try("").rstrip().endswith(think_end)
        # A prompt that has ended the reasoning itself (Qwen3 with enable_thinking=false) leaves none to the model.
        self.think_end = None if ended else think_end

    @cached_property
    def hash(self) -> str:
        """Of everything that decides a prompt's tokens but the vocabulary, which the weights' hash covers."""
        template = self.tokenizer.get_chat_template()
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        parts = {"template": template, "instruction": self.instruction, "special_tokens": special}
        return content_hash(parts | ({"options": self.options} if self.options else {}))

    def prompt_text(self, question: str) -> str:
        """The prompt as the chat template writes it, up to where the model goes on."""
        content = f"{question}\n{self.instruction}" if self.instruction else question
        messages = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self.options)

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the prompt. Whether it opens with a BOS is the template's affair: none is added to its text."""
        return self.prompts([question])[0]

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """`prompt_ids` of each question, in half the time that as many calls take."""
        texts = [self.prompt_text(question) for question in questions]
        prompts = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        for number, ids in enumerate(prompts):
            while bos is not None and ids[:2] == [bos, bos]:
                ids = ids[1:]
            prompts[number] = ids
        return prompts

    def completion_ids(self, text: str) -> list[int]:
        """Token ids of a completion that is written rather than sampled, ended as the model would end it."""
        return [*self.text_ids(text), self.tokenizer.eos_token_id]

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def completion_text(self, output_ids: list[int]) -> str:
        """The text of sampled ids, without end-of-sequence and other special tokens but with the thinking tags."""
        kept = [token for token in map(int, output_ids) if token not in self._silent_ids]
        # An array, since transformers looks at each element of a list to tell what it is.
        ids = np.array(kept, np.int64)
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _try(self, question: str) -> str:
        try:
            return self.prompt_text(question)
        except Exception as error:  # whatever a template's own code raises
            raise UserError(f"the model's chat template cannot write a prompt ({first_line(error)})") from error

    @cached_property
    def _silent_ids(self) -> set[int]:
        silent = set(self.tokenizer.all_special_ids)
        return silent - set(self.text_ids(self.think_end)) if self.think_end else silent


def answer_text(text: str, think_end: str | None) -> str | None:
    """What stands after the reasoning: all of it for models that reason in plain text, None where it never ended."""
    if not think_end:
        return text
    _, tag, answer = text.rpartition(think_end)
    return answer if tag else None
