"""Requests to sources, data files and a hub of this process, for the tests of calibration."""

import dataclasses
import gzip
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_traces import byte_tokenizer, difficulty, length, make_problems, selection

from ssgr import hub_data
from ssgr.calibration import SOURCES, CalibrationRequest
from ssgr.config import CalibrationConfig, HubDataset, HubTextConfig, OffPolicyConfig, TextConfig
from ssgr.traces.prompts import PromptTemplate

TOKENIZER = byte_tokenizer()
TEMPLATE = PromptTemplate(TOKENIZER, "Box it.", "</think>")
PLAIN = PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}:"), "", None)
UNOPENED = PromptTemplate(byte_tokenizer("{{ messages[0]['content'] }}:"), "", "</think>")
PROBLEMS = [dataclasses.replace(problem, solution=f"It is {problem.answer}.") for problem in make_problems(12)]
DATASET = HubDataset("someone/data", "en", "train", None)
MAX_SEQ_LEN = 90
DOCUMENTS = [f"Document {i}: " + f"word{i} " * (3 + 7 * i % 11) for i in range(30)]
EXCHANGES = [
    {"question": f"How much is {i}?", "reasoning": f"So {i} it is. " * (2 + i % 5), "answer": str(i)} for i in range(30)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": f"<think>\n{row['reasoning']}\n</think>\n\nIt is \\boxed{{{i}}}."},
        ]
    }
    for i, row in enumerate(EXCHANGES)
]


def config_of(name, tokens=300, sequences=None, max_seq_len=MAX_SEQ_LEN, weights="all", **data):
    """The config of a source; `data` are data_files, path, dataset and the names of fields."""
    budget = (name, None if sequences else tokens, sequences, max_seq_len, weights)
    if name in ("c4", "c4_chat", "wikitext"):
        return HubTextConfig(*budget, **{"data_files": None, "dataset": DATASET, "text_field": "text"} | data)
    if name == "text":
        return TextConfig(*budget, **{"path": None, "text_field": "text"} | data)
    if name == "off_policy":
        fields = {"messages_field": "messages", "question_field": "question", "reasoning_field": "reasoning"}
        defaults = {"data_files": None, "dataset": DATASET, "answer_field": "answer"} | fields
        return OffPolicyConfig(*budget, **defaults | data)
    return CalibrationConfig(*budget)


def request_of(config, cache, seed=0, problems=PROBLEMS, template=TEMPLATE, view=None):
    return CalibrationRequest(
        config=config,
        selection=selection(),
        difficulty=difficulty(),
        length=length(),
        seed=seed,
        split=False,
        template=template,
        weights_hash="w",
        cache=cache,
        problems=lambda: problems,
        rollouts=lambda: view,
    )


def build(config, cache, **options):
    return SOURCES.get(config.name)(request_of(config, cache, **options))


def texts(built):
    return [TOKENIZER.decode(sequence) for sequence in built.sequences]


def write_rows(path, rows):
    """As the suffix says; strings among the rows are written as they are."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        return path
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def document_rows(documents=None):
    return [{"text": document} for document in documents or DOCUMENTS]


class Hub:
    """Stands for `datasets` and the hub: the same rows for every id; counts what is asked and taken of it."""

    def __init__(self, rows):
        self.rows, self.asked, self.taken = rows, [], 0

    def install(self, monkeypatch):
        monkeypatch.setattr(hub_data, "_commit", lambda dataset: "c0ffee")
        monkeypatch.setattr("datasets.load_dataset", self.load)
        return self

    def load(self, name, config, **options):
        self.asked.append((name, config, options))
        return Stream(self, self.rows)


@dataclasses.dataclass
class Stream:
    hub: Hub
    rows: list
    cache_files: list = dataclasses.field(default_factory=lambda: [SimpleNamespace()])

    def shuffle(self, seed, buffer_size):
        assert buffer_size > 1
        return Stream(self.hub, [self.rows[i] for i in np.random.default_rng(seed).permutation(len(self.rows))])

    def __iter__(self):
        for row in self.rows:
            self.hub.taken += 1
            if isinstance(row, Exception):
                raise row
            yield row
