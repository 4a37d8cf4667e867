"""The process beside ours, with a stand-in for vLLM in it: what it is asked, what it answers, and how it dies."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ssgr.config import VllmConfig
from ssgr.engines import vllm
from ssgr.engines.base import Sampling
from ssgr.engines.vllm import VllmEngine
from ssgr.errors import CellError, UserError
from ssgr.models import blocks, load  # now: what is first imported while a test has patched it keeps the patch

FAKE = Path(__file__).parent / "fake_vllm"
GREEDY = Sampling(0.0, 1.0, 8)
DEFAULTS = {
    "batch_size": None,
    "tensor_parallel_size": 1,
    "data_parallel_size": 1,
    "replicas_per_card": 1,
    "gpu_memory_utilization": 0.5,
    "max_num_seqs": 2,
    "max_model_len": None,
    "enforce_eager": True,
    "repetition_detection": False,
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=os.pathsep)
    monkeypatch.setattr(sys, "path", [str(FAKE), *sys.path])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(vllm, "version", lambda package: "0.0")
    yield
    vllm.close_server()


class Linears(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3, bias=False).requires_grad_(False)
        self.linear.weight.fill_(value)
        self.dtype = torch.bfloat16
        self.generation_config = SimpleNamespace(eos_token_id=7)


class Qwen3MoeExperts(torch.nn.Module):
    """Known by its name."""


@pytest.fixture
def engine_of(tmp_path, monkeypatch):
    for module in (blocks, load):
        monkeypatch.setattr(module, "model_linears", lambda model: {"block.linear": model.linear})
    save_file({"block.linear.weight": Linears(1.0).linear.weight}, tmp_path / "model.safetensors")

    def build(longest=8, hash_="w", **options):
        loaded = SimpleNamespace(
            model=Linears(1.0),
            tokenizer=SimpleNamespace(eos_token_id=9),
            weights_hash=hash_,
            context=4096,
            device=torch.device("cuda", 0),
            folder=tmp_path,
            dtype=torch.bfloat16,
            trust_remote_code=False,
        )
        config = VllmConfig("vllm", **(DEFAULTS | options))
        return VllmEngine(config, loaded, longest=longest, log_folder=tmp_path / "logs")

    return build


def logs(tmp_path):
    return "".join(path.read_text() for path in sorted((tmp_path / "logs").glob("*.log")))


@pytest.mark.parametrize("shape", ["0.26", "0.32"])
def test_rows_come_back_under_their_numbers_and_equal_prompts_are_one_request(engine_of, shape, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", shape)
    prompts = [[5, 1], [4], [5, 1], [3], [5, 1]]
    made = engine_of().generate(prompts, [1] * 5, GREEDY)
    assert [generation.output_ids for generation in made] == [[6, 5, 7], [6, 4, 7], [6, 5, 7], [6, 3, 7], [6, 5, 7]]
    assert {generation.finish_reason for generation in made} == {"stop"}
    assert engine_of().generate(prompts, [1] * 5, Sampling(0.0, 1.0, 2))[0].finish_reason == "length"


def test_a_row_draws_by_its_own_seed(engine_of, tmp_path):
    engine_of().generate([[5], [5], [6]], [3, 4, 2**63 + 5], Sampling(1.0, 1.0, 8))
    assert re.findall(r"request of seed (.*)", logs(tmp_path)) == ["3", "4", "5"]


def test_seconds_are_those_of_the_engine_and_not_of_who_reads(engine_of):
    engine = engine_of()
    started = time.monotonic()
    for _ in engine.stream([[5], [6]], [0, 0], GREEDY):
        time.sleep(1.0)
    assert 0 < engine.seconds < time.monotonic() - started - 0.9


def test_a_context_that_would_cut_completions_is_refused_and_a_longer_one_starts_once(engine_of, tmp_path):
    with pytest.raises(UserError, match=r"engine.max_model_len=9 is too short: it must be at least 10"):
        engine_of(max_model_len=9).generate([[5, 1]], [0], GREEDY)
    engine = engine_of(max_model_len=10, longest=3000)
    engine.generate([[5, 1]], [0], GREEDY)
    engine.generate([[5, 1]], [0], GREEDY)
    assert logs(tmp_path).count("started") == 1


def test_an_error_of_the_system_in_the_child_is_told_like_any_other(engine_of, tmp_path):
    with pytest.raises(CellError, match=r"vLLM failed: FileNotFoundError: no such weights; its log"):
        engine_of().generate([[669]], [0], GREEDY)
    assert "Traceback" in logs(tmp_path)


def test_an_interruption_while_it_ends_kills_the_child(engine_of, monkeypatch):
    engine = engine_of()
    engine.generate([[5]], [0], GREEDY)
    child = vllm._live.children[0]
    child.send("generate", prompts=[[668]], seeds=[0], sampling={"max_tokens": 3, "temperature": 1.0}, repetition=None)
    wait = child.process.wait

    def interrupted(timeout=None):
        monkeypatch.setattr(child.process, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(child.process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.close()
    assert child.process.returncode == -signal.SIGKILL


def test_the_engine_starts_once_and_each_cell_brings_its_weights(engine_of, tmp_path):
    dense, pruned = engine_of(), engine_of()
    assert dense.generate([[5]], [0], GREEDY)[0].output_ids[0] == 6
    assert "weights put in" not in logs(tmp_path), "a fresh start has read them from the folder"
    pruned.loaded.model.linear.weight.fill_(0.5)
    pruned.close()
    assert pruned.generate([[5]], [0], GREEDY)[0].output_ids[0] == 3
    assert dense.generate([[5]], [0], GREEDY)[0].output_ids[0] == 6, "the dense weights are put back"
    dense.generate([[5]], [0], GREEDY)
    assert logs(tmp_path).count("started") == 1
    assert logs(tmp_path).count("weights put in") == 2, "and only where they change"
    assert logs(tmp_path).count("prefix cache reset") == 2


def test_a_model_that_is_pruned_before_the_start_is_brought_into_it(engine_of, tmp_path):
    engine = engine_of(data_parallel_size=2)
    engine.loaded.model.linear.weight.fill_(0.5)
    assert [made.output_ids[0] for made in engine.generate([[5], [4]], [0, 0], GREEDY)] == [3, 3]


def test_weights_take_the_way_through_the_host_where_the_card_does_not_share_its_memory(
    engine_of, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 1000))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr("ssgr.engines.card_memory.handles", lambda weights: [(name, ()) for name in weights])
    engine = engine_of(data_parallel_size=3, replicas_per_card=2, gpu_memory_utilization=0.8)
    for value, total in ((1.0, 6), (0.5, 3), (2.0, 12)):
        engine.loaded.model.linear.weight.fill_(value)
        made = engine.generate([[4], [5], [6]], [0] * 3, GREEDY)
        assert [generation.output_ids for generation in made] == [[total, first, 7] for first in (4, 5, 6)]
    assert capsys.readouterr().err.count("not shared between processes") == 1, "tried once, by both of the first card"
    assert logs(tmp_path).count("started") == 3


@pytest.mark.parametrize(
    ("shape", "experts", "reason"),
    [("rigid", [], "NotImplementedError: load_weights"), ("0.32", [Qwen3MoeExperts()], "a mixture of experts")],
)
def test_an_engine_that_takes_no_weights_is_started_anew_from_a_checkpoint(
    shape, experts, reason, engine_of, tmp_path, monkeypatch, capsys
):
    def write(model, tokenizer, folder):
        folder.mkdir()
        save_file({"block.linear.weight": model.linear.weight}, folder / "model.safetensors")

    monkeypatch.setenv("FAKE_VLLM", shape)
    monkeypatch.setattr("ssgr.models.save.write_model", write)
    engine = engine_of()
    engine.loaded.model.experts = torch.nn.ModuleList(experts)
    assert engine.generate([[5]], [0], GREEDY)[0].output_ids[0] == 6
    engine.loaded.model.linear.weight.fill_(0.5)
    for _ in range(2):
        assert engine.generate([[5]], [0], GREEDY)[0].output_ids[0] == 3
    assert logs(tmp_path).count("started") == 2
    assert f"takes no new weights while it runs ({reason})" in capsys.readouterr().err


def test_a_child_that_hangs_is_killed_after_a_while(engine_of, monkeypatch):
    engine = engine_of()
    engine.generate([[5]], [0], GREEDY)
    monkeypatch.setattr("ssgr.engines.child.PATIENCE", 1.5)
    with pytest.raises(CellError, match=r"killed after 1.5 s without a sign of life\); its log: .*vllm-.*log"):
        engine.generate([[668]], [0], GREEDY)


def test_all_replicas_are_asked_to_end_before_one_is_waited_for(engine_of, monkeypatch):
    engine_of(data_parallel_size=2).generate([[5], [4]], [0, 0], GREEDY)
    children, asked = list(vllm._live.children), []
    for child in children:

        def close(child=child, end=child.close):
            asked.append([each.connection.closed for each in children])
            end()

        monkeypatch.setattr(child, "close", close)
    vllm.close_server()
    assert asked == [[True, True], [True, True]]
    assert [child.process.returncode for child in children] == [0, 0], "they ended by themselves"


def test_a_module_where_the_user_stands_is_not_taken_for_the_library(engine_of, tmp_path, monkeypatch):
    for name in ("torch", "vllm", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert engine_of().generate([[5]], [0], GREEDY)[0].output_ids == [6, 5, 7]


def test_a_forked_process_leaves_the_server_alone(engine_of):
    engine = engine_of()
    engine.generate([[5]], [0], GREEDY)
    forked = os.fork()
    if not forked:
        status = 1
        try:
            vllm.close_server()
            status = 0 if vllm._live is None else 2
        finally:
            os._exit(status)
    assert os.waitpid(forked, 0)[1] == 0
    child = vllm._live.children[0].process
    assert engine.generate([[5]], [0], GREEDY)[0].output_ids == [6, 5, 7]
    assert vllm._live.children[0].process is child and child.poll() is None


@pytest.mark.parametrize("change", [{"hash_": "another"}, {"max_num_seqs": 3}, {"longest": 3000}])
def test_another_model_other_options_or_longer_completions_start_anew(engine_of, tmp_path, change):
    engine_of().generate([[5]], [0], GREEDY)
    first = vllm._live.children[0].process
    engine_of(**change).generate([[5]], [0], GREEDY)
    assert first.poll() is not None and "shut down" in logs(tmp_path)


def test_replicas_share_the_prompts(engine_of, tmp_path):
    made = engine_of(data_parallel_size=2).generate([[n] for n in range(1, 8)], [0] * 7, GREEDY)
    assert [generation.output_ids[1] for generation in made] == list(range(1, 8))
    assert len(list((tmp_path / "logs").glob("*.log"))) == 2
    with pytest.raises(UserError, match="asks for 6 cards"):
        engine_of(data_parallel_size=3, tensor_parallel_size=2).generate([[1]], [0], GREEDY)


def test_replicas_that_share_a_card_share_its_memory(engine_of, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 1000))
    engine = engine_of(data_parallel_size=3, replicas_per_card=2, gpu_memory_utilization=0.8)
    made = engine.generate([[n] for n in range(1, 8)], [0] * 7, GREEDY)
    assert [generation.output_ids[1] for generation in made] == list(range(1, 8))
    cards = re.findall(r"on card (\d) with (\d+) bytes", logs(tmp_path))
    weights = 6 * 2  # of Linears, in bf16
    assert cards == [(card, str(300 - weights)) for card in "001"], "half of 80 %, and a quarter of it to work in"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20, 40))
    with pytest.raises(UserError, match=r"replicas_per_card=2: .*a larger engine.gpu_memory_utilization"):
        engine_of(data_parallel_size=2, replicas_per_card=2, gpu_memory_utilization=0.8).generate([[1]], [0], GREEDY)


@pytest.mark.parametrize(
    ("rows", "eager", "asked"),
    [(512, False, "None"), (1024, False, "{'max_cudagraph_capture_size': 1024}"), (1024, True, "None")],
)
def test_every_batch_that_may_run_has_a_graph(engine_of, tmp_path, rows, eager, asked):
    engine_of(max_num_seqs=rows, enforce_eager=eager).generate([[1]], [0], GREEDY)
    assert f"to be compiled with {asked}\n" in logs(tmp_path)


def test_what_is_finished_before_a_crash_is_handed_over_and_the_crash_is_one_line(engine_of, monkeypatch, tmp_path):
    engine, seen = engine_of(max_num_seqs=1), []
    with pytest.raises(CellError, match=r"vLLM's process ended \(killed by signal 9\); its log: .*vllm-.*log"):
        for rows, _ in engine.stream([[n] for n in range(1, 600)] + [[666]], [0] * 600, GREEDY):
            seen += rows
    assert len(seen) >= 256
    assert engine.generate([[5]], [0], GREEDY)[0].output_ids == [6, 5, 7], "the next request starts it again"


def test_a_killed_child_is_noticed_while_it_generates(engine_of):
    engine = engine_of()
    engine.generate([[5]], [0], GREEDY)
    child = vllm._live.children[0].process
    threading.Timer(0.5, lambda: os.kill(child.pid, signal.SIGKILL)).start()
    with pytest.raises(CellError, match="killed by signal 9"):
        engine.generate([[668]], [0], GREEDY)


def test_a_child_that_does_not_end_is_killed(engine_of, monkeypatch):
    monkeypatch.setattr("ssgr.engines.child.STOP_SECONDS", 0.5)
    engine = engine_of()
    engine.generate([[5]], [0], GREEDY)
    child = vllm._live.children[0]
    child.send("generate", prompts=[[668]], seeds=[0], sampling={"max_tokens": 3, "temperature": 1.0}, repetition=None)
    time.sleep(0.2)
    vllm.close_server()
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("options", "prompt", "line"),
    [
        (
            {"gpu_memory_utilization": 0.05},
            5,
            r"No available memory .*larger engine.gpu_memory_utilization \(now 0.05\).*vllm-\d+-0\.log",
        ),
        (
            {"gpu_memory_utilization": 0.95},
            5,
            r"Free memory on device .*one worker for each card .*gpu_memory_utilization \(now 0.95\)",
        ),
        ({}, 667, r"out of memory.* engine.max_num_seqs \(now 2\)"),
    ],
)
def test_errors_name_the_setting_that_helps(engine_of, options, prompt, line):
    with pytest.raises(UserError, match=line):
        engine_of(**options).generate([[prompt]], [0], GREEDY)
    assert vllm._live is None


def test_completions_that_are_ended_early_are_another_engines_in_the_keys_of_stores(engine_of):
    usual, early = (engine_of(repetition_detection=on).identity["engine"] for on in (False, True))
    assert usual == "vllm" != early


def test_without_vllm_or_a_card_it_is_one_line(engine_of, monkeypatch):
    engine = engine_of()
    engine.loaded.device = torch.device("cpu")
    with pytest.raises(UserError, match="needs a CUDA device"):
        VllmEngine(engine.config, engine.loaded, longest=8, log_folder=Path("logs"))
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ssgr\[gpu\]'"):
        VllmEngine(engine.config, engine.loaded, longest=8, log_folder=Path("logs"))
