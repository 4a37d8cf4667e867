"""The model card of a checkpoint, README.md: the hub's front matter, the recipe, what was measured, what it is not.

Made of result.json's own numbers. A card is there to be published: local paths become names, and what models, data and
folders are called is written as plain text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from ssgr.cache import write_atomically
from ssgr.labels import difficulty_labels, length_labels
from ssgr.measured import LEGEND, heads, main_metric, row, tasks
from ssgr.models.files import local_model
from ssgr.progress import visible

MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$@:])")
LOADING = """## Loading it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "checkpoint"  # this folder, or the hub id that it was given
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
```

```python
from vllm import LLM, SamplingParams

llm = LLM("checkpoint")
print(llm.chat([{"role": "user", "content": "What is 6 times 7?"}], SamplingParams(temperature=0.6, max_tokens=512)))
```
"""
LIMITS = """## What it is not

- Not smaller and not faster by itself: zeros are stored like any other weight and computed with. {speed}
- Not trained after pruning: weights were masked in one shot, and at most updated from calibration data.
- Not measured on anything but the tasks above. A pruned model can ramble: read its accuracy beside its tokens and the
  share that was cut. Safety was not measured at all.
- The base model's license and limits hold for it too.
"""
SPEED = {
    True: "Kernels for this n:m pattern, on hardware that has them (NVIDIA's sparse tensor cores for 2:4), can use it "
    "once the weights are compressed for them.",
    False: "Only kernels for unstructured sparsity, after a conversion of the weights, could gain from them.",
}


def card(result: dict[str, Any]) -> str:
    """The README.md of the checkpoint of the cell that this result.json is of."""
    config, sparsity = result["config"], result["sparsity"]
    pruned = sparsity["pattern"] != "dense"
    title = f"{base_name(result)}, " + (f"pruned to {sparsity['achieved']:.1%}" if pruned else "not pruned")
    synthetic = config["model"]["path"] is None
    note = "\nThe bundled model and its problems are synthetic: for trying things out, not for conclusions.\n"
    parts = [
        f"---\n{front_matter(result)}---\n\n# {plain(title)}\n{note if synthetic else ''}",
        "## Recipe\n\n" + "".join(f"- {name}: {plain(value)}\n" for name, value in recipe(result)),
        f"## Measured\n\n{table(result)}\n\n{LEGEND}; ±: one standard error; n: problems, k: answers to each.\n",
        LOADING,
        LIMITS.format(speed=SPEED[":" in sparsity["pattern"]]) if pruned else "",
        "## Made by\n\n" + "".join(f"- {name}: {plain(value)}\n" for name, value in origin(result)),
    ]
    return "\n".join(part for part in parts if part)


def write_card(checkpoint: Path, result: dict[str, Any]) -> None:
    """Puts the card into a checkpoint that is there."""
    text = card(result)
    write_atomically(checkpoint / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def front_matter(result: dict[str, Any]) -> str:
    """The hub's metadata as YAML; of a local base model no name, under which the hub may know a stranger's."""
    config = result["config"]
    pruned = result["sparsity"]["pattern"] != "dense"
    found = {"base_model": [hub_id(result)]} if hub_id(result) else {}
    tags = ["pruning", "sparse", config["pruner"]["name"]] if pruned else []
    found |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": [*tags, "ssgr"]}
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def hub_id(result: dict[str, Any]) -> str | None:
    path = result["config"]["model"]["path"]
    return path if path is not None and local_model(path) is None else None


def base_name(result: dict[str, Any]) -> str:
    """The base model as others may read it: its hub id, `bundled`, or the name of its folder or file."""
    path = result["config"]["model"]["path"]
    return hub_id(result) or ("bundled" if path is None else Path(path).expanduser().absolute().name)


def recipe(result: dict[str, Any]) -> list[tuple[str, Any]]:
    config, calibration, sparsity = result["config"], result["calibration"], result["sparsity"]
    commit = f", revision {result['model']['revision']}" if result["model"].get("revision") else ""
    lines = [("base model", base_name(result) + commit), ("weights' hash", result["model"]["weights"])]
    lines.append(("dtype", config["model"]["dtype"]))
    if sparsity["pattern"] != "dense":
        lines += [("pruner", options(config["pruner"])), ("allocation", options(config["allocation"]))]
        reached = f"{sparsity['achieved']:.4%} of {result['model']['prunable_parameters']:,} prunable weights"
        reached += f" ({result['model']['parameters']:,} parameters in all), target {sparsity['target']:.4%}"
        lines.append(("sparsity", f"{reached}, {sparsity['pattern']}"))
    if calibration:
        lines += calibrated(config, calibration)
    sampling = config["evaluation"]
    shown = [name for name in ("temperature", "top_p", "max_new_tokens") if sampling.get(name) is not None]
    lines.append(("evaluation's sampling", ", ".join(f"{name} {sampling[name]}" for name in shown) or "none"))
    return lines


def calibrated(config: dict[str, Any], calibration: dict[str, Any]) -> list[tuple[str, Any]]:
    held = f"{calibration['tokens']:,} tokens, {calibration['sequences']:,} sequences"
    if calibration["traces"]:
        held += f", {calibration['traces']:,} traces of {calibration['problems']:,} problems"
        held += f", {calibration['mean_trace_tokens']:.0f} tokens a trace with its prompt"
        held += f", mean pass rate {calibration['mean_pass_rate']:.2f}"
    bins = {
        "difficulty": ", ".join(difficulty_labels(config["difficulty"])) or "all",
        "length": ", ".join(length_labels(config["length"])) or "all",
    }
    lines = [("calibration", f"{calibration['source']}: {held}")]
    if store := calibration.get("store"):
        sampling = ", ".join(
            f"{name} {value}" for name, value in (store["sampling"] or {}).items() if value is not None
        )
        whose = f"{store['model'] or 'a model without a name'} (weights {store['weights'] or 'unknown'})"
        lines.append(
            ("traces of", f"{whose} on {store['problem_set'] or 'unnamed problems'}; {sampling or 'sampling unknown'}")
        )
    if calibration["problems"]:
        lines += bins.items()
    if calibration["traces"]:
        lines.append(("selection", f"{config['selection']['correctness']} traces"))
    lines.append(("token weights", config["calibration"]["token_weights"]))
    return [*lines, ("longest sequence", config["calibration"]["max_seq_len"]), ("seed", config["seed"])]


def options(group: dict[str, Any]) -> str:
    """The name of a method and its own options, none of which is a path."""
    own = ", ".join(f"{name} {value}" for name, value in group.items() if name != "name")
    return f"{group['name']} ({own})" if own else group["name"]


def table(result: dict[str, Any]) -> str:
    """The tasks, dense against pruned, as the end of a cell shows them."""
    named = {task: main_metric(task, result["dense_metrics"]) for task in tasks(result)}
    score, *others = heads(named.values())
    lines = [["task", "model", plain(score), *others], ["---"] * 2 + ["---:"] * (1 + len(others))]
    pair = {"dense": result["dense_metrics"]}
    if result["sparsity"]["pattern"] != "dense":
        pair["pruned"] = result["metrics"]
    for task, measured in named.items():
        name = plain(task if measured in ("accuracy", task) else f"{task}, {measured}")
        lines += [[name, which, *row(task, metrics, measured)] for which, metrics in pair.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def origin(result: dict[str, Any]) -> list[tuple[str, str]]:
    environment = result["environment"]
    lines = [("cell", result["cell"]), ("cell's hash", result["cell"].rpartition("-")[2])]
    if environment["git"]:
        lines.append(("sources", environment["git"]))
    lines.append(("versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())))
    return [*lines, ("device", environment["device"])]


def plain(value: Any) -> str:
    """A text from models, data or folders as one line of Markdown that means nothing but itself."""
    return MARKDOWN.sub(r"\\\1", visible(str(value), kept=""))
