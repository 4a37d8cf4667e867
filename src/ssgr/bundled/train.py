"""Trains the bundled reasoning model: `python -m ssgr.bundled.train --out DIR` (about four minutes on one H100).

The model is a Qwen2 of 4.8 million parameters. It learns the procedural problems of `problems.py` with worked
solutions, whose hard look-ups are wrong half the time, and English (docstrings of the installed packages), so that
general text is not foreign to it. The tokenizer is trained first; the shipped problem sets are never trained on.
"""

import argparse
import ast
import math
import multiprocessing
import random
import site
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ssgr.bundled import problems as generator

HERE = Path(__file__).parent
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
VOCABULARY, WINDOW, CONTEXT = 1536, 512, 1024
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
# The pre-tokenisation of Qwen2: every digit stands alone, which is what lets a small model do arithmetic.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def prompt_text(question: str) -> str:
    """What the chat template makes of a question; the tests hold it against the template itself."""
    return f"<|bos|><|user|>{question}\n{INSTRUCTION}<|assistant|><think>\n"


def completion_text(solution: str, answer: str) -> str:
    return f"{solution}\n</think>\n\nThe answer is \\boxed{{{answer}}}.<|eos|>"


def training_pairs(task: tuple[int, int]) -> list[tuple[str, str]]:
    """(prompt, completion) of `count` random training problems; hard look-ups are noisy."""
    seed, count = task
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        program = generator.draw_program(rng, generator.TRAINING_LEVELS)
        values = program.noisy_values(rng)
        solution = generator.write_solution(program, values, rng)
        pairs.append((prompt_text(program.question), completion_text(solution, program.solve(values)[1])))
    return pairs


def docstrings(path: Path) -> list[str]:
    """The docstrings of one source file that are long enough to be prose."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)]
    return [text for text in texts if text and len(text) > 200]


def english(pool) -> list[str]:
    """Every distinct docstring of the installed packages, in an order that does not depend on the file system."""
    paths = sorted(path for folder in site.getsitepackages() for path in Path(folder).rglob("*.py"))
    found = {text for texts in pool.imap(docstrings, paths, chunksize=64) for text in texts}
    return sorted(found)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eos|>", model_max_length=CONTEXT
    )
    tokenizer.chat_template = (HERE / "chat_template.jinja").read_text()
    return tokenizer


def pack(documents: list[tuple[np.ndarray, int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole documents packed into windows: the longest left, then the shortest ones that still fit beside it.

    Each document is (ids, number of leading ids without a loss). Returns input ids int16 and labels int16
    [windows, WINDOW]; a label of -1 carries no loss.
    """
    documents = sorted(documents, key=lambda document: -len(document[0]))
    low, high, windows = 0, len(documents) - 1, []
    while low <= high:
        group, room = [documents[low]], WINDOW - len(documents[low][0])
        low += 1
        while low <= high and len(documents[high][0]) <= room:
            group.append(documents[high])
            room -= len(documents[high][0])
            high -= 1
        windows.append(group)
    ids = np.full((len(windows), WINDOW), pad, np.int16)
    labels = np.full((len(windows), WINDOW), -1, np.int16)
    for row, group in enumerate(windows):
        start = 0
        for document, silent in group:
            end = start + len(document)
            ids[row, start:end] = document
            labels[row, start + silent : end] = document[silent:]
            start = end
    return ids, labels


def build_corpus(tokenizer, pairs, texts, english_share: float, rng: random.Random):
    """Windows of problems and of English, English making up `english_share` of the windows."""
    core = tokenizer.backend_tokenizer

    def encode(strings):
        encoded = []
        for start in range(0, len(strings), 20_000):
            batch = core.encode_batch_fast(strings[start : start + 20_000], add_special_tokens=False)
            encoded += [np.array(item.ids, np.int16) for item in batch]
        return encoded

    prompts, completions = encode([pair[0] for pair in pairs]), encode([pair[1] for pair in pairs])
    documents = [
        (np.concatenate([prompt, completion]), len(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
        if len(prompt) + len(completion) <= WINDOW
    ]
    print(f"{len(documents)} of {len(pairs)} problems fit {WINDOW} tokens")
    ids, labels = pack(documents, tokenizer.pad_token_id)
    wanted = int(len(ids) * english_share / (1 - english_share))
    pieces: list[tuple[np.ndarray, int]] = []
    rng.shuffle(texts)
    for text_ids in encode([f"<|bos|>{text}<|eos|>" for text in texts]):
        pieces += [(text_ids[at : at + WINDOW], 1) for at in range(0, len(text_ids), WINDOW) if len(text_ids) - at > 16]
    english_ids, english_labels = pack(pieces, tokenizer.pad_token_id)
    repeats = -(-wanted // len(english_ids))
    print(f"{len(ids)} windows of problems, {wanted} of English ({len(english_ids)} distinct, seen {repeats} times)")
    order = np.tile(np.arange(len(english_ids)), repeats)[:wanted]
    return np.concatenate([ids, english_ids[order]]), np.concatenate([labels, english_labels[order]])


def new_model(tokenizer) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return Qwen2ForCausalLM(config)


def fit(model, ids: np.ndarray, labels: np.ndarray, steps: int, batch: int, peak: float, device: str) -> None:
    """AdamW, cosine schedule with warm-up, bf16 autocast over fp32 weights, compiled."""
    model.to(device).train()
    data, targets = torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
    decay = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=device != "cpu")

    @torch.compile(disable=device == "cpu")
    def loss_of(inputs, wanted):
        with torch.autocast(device, torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), wanted[:, 1:].flatten(), ignore_index=-1
        )

    generator_ = torch.Generator(device).manual_seed(0)
    order = torch.randperm(len(data), generator=generator_, device=device)
    cursor, started = 0, time.monotonic()
    for step in range(steps):
        if cursor + batch > len(order):
            order, cursor = torch.randperm(len(data), generator=generator_, device=device), 0
        rows = order[cursor : cursor + batch]
        cursor += batch
        scale = min((step + 1) / 100, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = peak * scale
        loss = loss_of(data[rows].long(), targets[rows].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--tokenizer", type=Path, help="an existing tokenizer instead of a new one")
    parser.add_argument("--problems", type=int, default=1_200_000)
    parser.add_argument("--steps", type=int, default=4_200)
    parser.add_argument("--batch", type=int, default=256, help="windows of 512 tokens per step")
    parser.add_argument("--peak", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--english", type=float, default=0.2, help="share of the windows that is English")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")

    shipped = {
        prompt_text(problem.question)
        for seed, count in (
            (generator.CALIBRATION_SEED, generator.CALIBRATION_PROBLEMS),
            (generator.EVALUATION_SEED, generator.EVALUATION_PROBLEMS),
        )
        for problem in generator.draw_problems(seed, count, "p")
    }
    with multiprocessing.Pool() as pool:
        size = 2_000
        tasks = [(1_000_000 + index, size) for index in range(-(-options.problems // size))]
        pairs = [pair for chunk in pool.imap(training_pairs, tasks) for pair in chunk if pair[0] not in shipped]
        texts = english(pool)
    print(f"{len(pairs)} problems, {len(texts)} English texts of {sum(map(len, texts)) / 1e6:.0f} MB")
    if options.tokenizer:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
    else:
        sample = [text for pair in pairs[:20_000] for text in pair] + texts[:: max(len(texts) // 20_000, 1)]
        tokenizer = train_tokenizer(sample)
    ids, labels = build_corpus(tokenizer, pairs, texts, options.english, random.Random(0))
    model = new_model(tokenizer)
    fit(model, ids, labels, options.steps, options.batch, options.peak, options.device)
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
