"""Small lm-eval tasks of each kind, with data of their own: what evaluation.include_path names."""

from pathlib import Path

DATA = """
from datasets import Dataset

def words(*numbers):
    return " ".join(f"w{number % 60 + 30}" for number in numbers)

def choices(**_):
    rows = [(words(*range(n, 3 * n + 2)), [words(n), words(n + 1, n * n), words(7)], n % 3) for n in range(11)]
    return {"test": Dataset.from_list([dict(zip("qcy", row)) for row in rows])}

def texts(**_):
    return {"test": Dataset.from_list([{"text": words(*range(n, n + 5 + 40 * n))} for n in range(5)])}
"""
TASKS = {
    "chosen": """
task: chosen
custom_dataset: !function local_data.choices
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_target: y
doc_to_choice: "{{c}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "written": """
task: written
custom_dataset: !function local_data.choices
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{c[0]}}"
generation_kwargs: {until: ["w39"], do_sample: false, max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "rolled": """
task: rolled
custom_dataset: !function local_data.texts
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}


def write_tasks(folder: Path) -> Path:
    (folder / "local_data.py").write_text(DATA)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder
