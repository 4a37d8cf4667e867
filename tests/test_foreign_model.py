"""Models that the project has never seen, from the command line: other architectures, tokenizers, chat formats."""

import json
import shutil

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from ssgr import cli

PROBLEMS = [
    {
        "question": f"Ann has {n} apples and buys {n + 1} more, then gives away {n % 5}. How many are left?",
        "answer": f"She has {n} + {n + 1} = {2 * n + 1}. Then {2 * n + 1 - n % 5} are left.\n#### {2 * n + 1 - n % 5}",
    }
    for n in range(3, 40)
]
WINDOW = {"sliding_window": 16}  # shorter than every prompt
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOW}
# architecture: its config, special tokens (bos, eos, the others) and how a chat is written in them
FOREIGN = {
    "llama": (
        LlamaConfig,
        {},
        ("<|begin|>", "<|eot|>", "<|head|>"),
        "{bos}<|head|>user\n\n{text}<|eot|><|head|>it\n\n",
    ),
    "qwen3": (Qwen3Config, {"head_dim": 16}, (None, "<|end|>", "<|start|>"), "<|start|>user\n{text}<|end|>\n<think>\n"),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
        (None, "<|end|>", "<|start|>"),
        "<|start|>user\n{text}<|end|>\n<|start|>it\n",
    ),
    "mistral": (MistralConfig, WINDOW, ("<s>", "</s>", "[INST]", "[/INST]"), "{bos}[INST] {text} [/INST]"),
    "gemma2": (Gemma2Config, GEMMA, ("<bos>", "<eos>", "<turn>"), "{bos}<turn>user\n{text}<turn>model\n"),
    "gemma3": (Gemma3TextConfig, GEMMA, ("<bos>", "<eos>", "<turn>"), "{bos}<turn>user\n{text}<turn>model\n"),
    "phi3": (Phi3Config, {}, ("<|a|>", "<|end|>", "<|user|>"), "<|user|>\n{text}<|end|>\n<|it|>\n"),
}
THINKS = "qwen3"


def make_tokenizer(special: tuple, chat: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the problems; like most, it adds a BOS to every text that it is given."""
    bos, eos, *_ = special
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = [token for token in (*special, "<think>", "</think>") if token]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([row["question"] + row["answer"] for row in PROBLEMS], trainer)
    if bos:
        pair = [(bos, trained.token_to_id(bos))]
        trained.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=pair)
    made = PreTrainedTokenizerFast(tokenizer_object=trained, bos_token=bos, eos_token=eos)
    before, after = chat.replace("{bos}", bos or "").split("{text}")
    made.chat_template = json.dumps(before).join(("{{ ", " + messages[0]['content'] + ")) + json.dumps(after) + " }}"
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder per architecture as a user would have it, with random weights, and the two problem files."""
    root = tmp_path_factory.mktemp("foreign")
    for name, (config_class, changes, special, chat) in FOREIGN.items():
        tokenizer = make_tokenizer(special, chat)
        shape = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
        torch.manual_seed(0)
        config = config_class(**shape, **ids, **changes, initializer_range=0.2)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    for name, rows in (("train", PROBLEMS[:30]), ("test", PROBLEMS[30:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def ssgr(folders, tmp_path, monkeypatch, capsys):
    """Runs the console entry on a folder; returns its exit status, the cells' folders and what it said of errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSGR_CACHE", str(tmp_path / "cache"))

    def run(model, *options: str):
        given = ["model=hub", f"model.path={folders / model}", "problems=jsonl", f"problems.path={folders}/train.jsonl"]
        given += [
            "evaluation=jsonl",
            f"evaluation.path={folders}/test.jsonl",
            "evaluation.max_new_tokens=12",
            "limit=3",
        ]
        given += ["rollouts.problems=4", "rollouts.max_new_tokens=12", "calibration.tokens=200", "tracking=disabled"]
        monkeypatch.setattr("sys.argv", ["ssgr", *given, *options])
        status = cli.main()
        printed = capsys.readouterr()
        run.report = printed.out
        said = [line for line in printed.err.splitlines() if line.startswith("ssgr: ")]
        return status, sorted((tmp_path / "runs").glob("single/hub-*")), said

    return run


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", ["calibration=self_generated", "selection.correctness=any", "save_checkpoint=true"]),
        ("qwen3", ["calibration=reference_solutions", "model.think_end=</think>"]),
        ("qwen3_moe", ["calibration=reference_solutions", "allocation=owl", "save_checkpoint=true"]),
        ("mistral", ["calibration=prompts_only", "sparsity=n2m4"]),
        ("gemma2", ["calibration=general_text"]),
        ("gemma3", ["calibration=prompts_only", "pruner=wanda"]),
        ("phi3", ["calibration=reference_solutions"]),
    ],
)
def test_a_foreign_model_goes_all_the_way(ssgr, folders, model, options):
    status, (cell,), _ = ssgr(model, *options)
    assert status == 0
    result = json.loads((cell / "result.json").read_text())
    for metrics in (result["metrics"], result["dense_metrics"]):
        assert (metrics["jsonl/accuracy"], metrics["jsonl/problems"]) == (0.0, 3)
    assert 0 < result["metrics"]["jsonl/kl"] < 20
    assert result["sparsity"]["achieved"] == pytest.approx(0.5, abs=1e-4)
    assert result["calibration"]["tokens"] == 200

    _, _, special, chat = FOREIGN[model]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folders / model)
    texts = [tokenizer.decode(ids) for ids in pd.read_parquet(cell / "calibration.parquet")["input_ids"]]
    if "calibration=general_text" not in options:
        before = chat.replace("{bos}", special[0] or "").split("{text}")[0]
        whole = texts[:-1]  # the budget cuts the last one anywhere
        assert whole and all(text.startswith(f"{before}Ann has ") and text.count(before) == 1 for text in whole)
    if model == THINKS:
        assert "<|end|>\n<think>\nShe has" in texts[0] and "left.\n</think>\n\n\\boxed{" in texts[0]
    if model == "qwen3_moe":
        scarce = result["sparsity"]["experts_by_magnitude"]
        assert f"{scarce} of {result['sparsity']['experts']} experts saw fewer calibration tokens" in ssgr.report
    if (cell / "checkpoint").is_dir():
        AutoModelForCausalLM.from_pretrained(cell / "checkpoint", dtype=torch.bfloat16)


def test_a_model_that_solves_nothing_has_no_correct_traces(ssgr):
    status, (cell,), (line,) = ssgr("llama")
    assert status == 1 and "holds 0 tokens in 0 traces" in line
    assert json.loads((cell / "failure.json").read_text())["stage"] == "calibration"


def test_a_model_without_chat_template_is_one_line(ssgr, folders, tmp_path):
    bare = shutil.copytree(folders / "llama", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    status, cells, (line,) = ssgr(bare)
    assert (status, cells) == (2, []) and "has no chat template" in line
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()
