"""Model cards: what they say of a result, and that no name or path from outside says anything of its own."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import yaml
from command_line import config_of, ssgr

from ssgr import resume
from ssgr.model_card import base_name, card, front_matter
from ssgr.results import plain as plain_values

HOSTILE = "[x](javascript:alert) <script>|`*_\n# Heading\x1b[31m"


def result_of(*overrides, **changes):
    config = plain_values(asdict(config_of(*overrides)))
    dense = {"math500/accuracy": 0.5, "math500/accuracy_se": 0.02, "math500/problems": 500, "math500/repeats": 4}
    found = {
        "cell": "my_model-sparsegpt-s50-seed0-0123456789",
        "config": config,
        "model": {"revision": None, "weights": "abcdef", "parameters": 1000, "prunable_parameters": 800},
        "sparsity": {"target": 0.5, "achieved": 0.5, "pattern": "unstructured"},
        "calibration": {
            "source": "self_generated",
            "tokens": 131072,
            "sequences": 20,
            "traces": 20,
            "problems": 19,
            "mean_trace_tokens": 800.4,
            "mean_pass_rate": 0.61,
        },
        "metrics": dense | {"math500/accuracy": 0.25, "math500/kl": 0.0627, "math500/kl_se": 0.0013},
        "dense_metrics": dense | {"math500/kl": 0.0},
        "environment": {"git": None, "versions": {"ssgr": "0.1", "torch": "2.12"}, "device": "a card"},
    }
    return found | changes


def test_a_card_of_a_model_from_the_hub():
    result = result_of("model=r1_distill_qwen_1_5b", "pruner=sparsegpt", "difficulty=hard", "length=moderate", "seed=3")
    text = card(result)
    _, front, body = text.split("---\n", 2)
    hub = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    wanted = {"base_model": [hub], "library_name": "transformers", "pipeline_tag": "text-generation"}
    assert yaml.safe_load(front) == wanted | {"tags": ["pruning", "sparse", "sparsegpt", "ssgr"]}
    assert "| math500 | dense | 0.500 ± 0.020 | 500 × 4 | – | – | 0.0000 |" in body
    assert "| math500 | pruned | 0.250 ± 0.020 | 500 × 4 | – | – | 0.0627 ± 0.0013 |" in body
    lines = ["- difficulty: hard", "- length: moderate", "- seed: 3", "131,072 tokens", "50.0000% of 800 prunable"]
    lines += ["from_pretrained(folder", "LLM(", "What it is not", "0123456789", "ssgr 0.1"]
    assert not [line for line in lines if line not in body]


def test_whose_traces_a_store_held_is_told():
    store = {
        "model": "m",
        "weights": "w1",
        "problem_set": "math_train 1",
        "sampling": {"temperature": 0.8},
    }
    calibration = result_of()["calibration"] | {"source": "traces", "store": store}
    assert "- traces of: m \\(weights w1\\) on math\\_train 1; temperature 0.8" in card(
        result_of(calibration=calibration)
    )
    store = dict.fromkeys(store)
    text = card(result_of(calibration=calibration | {"store": store}))
    assert "- traces of: a model without a name \\(weights unknown\\) on unnamed problems; sampling unknown" in text


def test_a_source_without_traces_has_no_bins():
    calibration = {"source": "general_text", "tokens": 4096, "sequences": 2, "traces": 0, "problems": 0}
    text = card(result_of(calibration=result_of()["calibration"] | calibration))
    assert "4,096 tokens, 2 sequences\n" in text
    assert not [name for name in ("difficulty", "length", "selection") if f"- {name}:" in text]


@pytest.mark.parametrize("pattern, said", [("2:4", "sparse tensor cores"), ("unstructured", "unstructured sparsity")])
def test_what_zeros_are_good_for_depends_on_the_pattern(pattern, said):
    text = card(result_of(sparsity={"target": 0.5, "achieved": 0.5, "pattern": pattern}))
    assert said in text and "Not smaller and not faster" in text


def test_a_dense_cells_card_claims_no_pruning():
    nothing = {"target": 0.0, "achieved": 0.0, "pattern": "dense"}
    text = card(result_of("pruner=none", sparsity=nothing, calibration=None))
    assert "not pruned" in text and "| pruned |" not in text and "What it is not" not in text
    assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["ssgr"]


def test_of_a_local_model_only_its_name_is_told(tmp_path):
    folder = tmp_path / "secret" / "my-model"
    folder.mkdir(parents=True)
    result = result_of("model=hub", f"model.path={folder}")
    assert base_name(result) == "my-model" and "base_model" not in yaml.safe_load(front_matter(result))
    assert "secret" not in card(result) and str(tmp_path) not in card(result)
    assert base_name(result_of()) == "bundled"


def test_hostile_names_are_text():
    result = result_of()
    result["cell"] = f"{HOSTILE}-0123456789"
    result["config"]["model"]["path"] = f"/data/{HOSTILE}".replace("\n# Heading", "\n- # Heading")
    result["metrics"] = {name.replace("math500", HOSTILE): value for name, value in result["metrics"].items()}
    text = card(result)
    assert "<script>" not in text.replace("\\<script\\>", "") and "](java" not in text
    assert "\x1b" not in text and "# Heading" not in [line.strip() for line in text.splitlines()]
    assert [line for line in text.splitlines() if line.startswith("# ")] == [text.split("\n---\n\n")[1].splitlines()[0]]
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"


def test_a_checkpoint_without_a_card_is_lacking_and_a_copy_has_one(tmp_path):
    cell = "pruner=magnitude evaluation=divergence evaluation.task=tiny_math limit=4 save_checkpoint=true"
    assert ssgr(f"{cell} tracking=disabled", tmp_path).status == 0
    readme = next(tmp_path.glob("runs/single/*/checkpoint/README.md"))
    asked = SimpleNamespace(
        config=SimpleNamespace(save_checkpoint=True, evaluation=SimpleNamespace(divergence=True)),
        is_dense=False,
        reads_calibration=False,
        folder=readme.parent.parent,
    )
    assert resume.lacking(asked) == []
    assert "copied from" in ssgr(f"{cell} tracking=disabled study=other", tmp_path).err
    copy = next(tmp_path.glob("runs/other/*/checkpoint/README.md"))
    assert copy.read_text() == readme.read_text()
    readme.unlink()
    assert resume.lacking(asked) == ["checkpoint/README.md"]
