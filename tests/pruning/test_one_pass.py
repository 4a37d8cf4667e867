"""Many answers from one calibration pass: the same bits as each by itself, and what is held and dropped on the way."""

import numpy as np
import pytest
import tiny_models
import torch

from ssgr.config import Propagation, Sinks
from ssgr.models.blocks import model_linears
from ssgr.pruning import one_pass, sparsegpt
from ssgr.pruning.loop import Request, prune_for, prune_model
from ssgr.pruning.one_pass import answers, free_memory, prune_with_others
from ssgr.pruning.sparsity import Sparsity

SEQUENCES = tiny_models.sequences(18)
HALF, TWO_OF_FOUR = Sparsity(0.5), Sparsity(0.5, 2, 4)


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(one_pass, "latest", one_pass.Pass())


@pytest.fixture
def request_for(pruner_config, uniform):
    def build(name, sparsity, **options):
        return Request(pruner_config(name, propagation=Propagation.dense, **options), uniform, sparsity)

    return build


def model():
    return tiny_models.loaded(tiny_models.build("qwen2", dtype=torch.bfloat16))


def weights_of(loaded):
    return {name: linear.weight.clone() for name, linear in model_linears(loaded.model).items()}


def alone(request, sequences=SEQUENCES, weights=None):
    """The weights and the report of a request by itself."""
    loaded = model()
    report = prune_model(loaded, sequences, weights, request.pruner, request.allocation, request.sparsity)
    return weights_of(loaded), report


def without_seconds(report):
    def timeless(rows):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    found = report.to_json()
    return {name: value for name, value in found.items() if name != "seconds"} | {
        "rows": timeless(report.rows),
        "blocks": timeless(report.blocks),
    }


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("sinks", Sinks)
def test_every_answer_has_the_bits_and_the_report_of_a_pruning_by_itself(sinks, request_for, passes):
    shared = {} if sinks == Sinks.keep else {"sinks": sinks}
    names = ["sparsegpt", "wanda", *["magnitude"] * (sinks == Sinks.keep)]  # magnitude has no such option
    asked = [
        request_for(name, sparsity, measure_error=measure, **shared)
        for measure in (False, True)
        for name in names
        for sparsity in (Sparsity(0.3), HALF, TWO_OF_FOUR)
    ]
    generator = np.random.default_rng(1)
    weights = [generator.choice([0.0, 0.5, 1.0], len(ids)).astype(np.float32) for ids in SEQUENCES]
    loaded = model()
    dense = weights_of(loaded)
    found = answers(loaded, SEQUENCES, weights, asked)
    assert passes == [["diagonal", "gram"]] and equal(weights_of(loaded), dense), "one pass, and the model stays dense"
    for request, answer in zip(asked, found, strict=True):
        expected, report = alone(request, weights=weights)
        assert without_seconds(answer.report) == without_seconds(report)
        assert answer.report.seconds >= sum(row["seconds"] for row in answer.report.rows) > 0
        again = model()
        answer.put_into(again.model)
        assert equal(weights_of(again), expected) and not equal(expected, dense)


def test_all_sparsities_share_the_factor_of_an_input(request_for, monkeypatch):
    made, real = [], sparsegpt.factored
    monkeypatch.setattr(sparsegpt, "factored", lambda *given: made.append(given[0].name) or real(*given))
    answers(model(), SEQUENCES, None, [request_for("sparsegpt", sparsity) for sparsity in (HALF, TWO_OF_FOUR)])
    assert len(made) == len(set(made)) == 3 * 4, "q, k and v have one input, and so have gate and up"


def test_pruned_propagation_and_other_sinks_share_no_pass(request_for, pruner_config, uniform):
    pruned = Request(pruner_config("wanda"), uniform, HALF)
    for asked in ([pruned, pruned], [request_for("wanda", HALF), request_for("wanda", HALF, sinks=Sinks.exclude)]):
        with pytest.raises(ValueError, match="dense propagation and the same sinks"):
            prune_for(model(), SEQUENCES, None, asked, take=print)


def test_later_requests_take_their_answers_and_nothing_is_held_in_the_end(request_for, passes):
    asked = [request_for(name, sparsity) for name in ("sparsegpt", "wanda") for sparsity in (HALF, TWO_OF_FOUR)]
    for number, request in enumerate(asked):
        loaded, seen = model(), []
        report = prune_with_others(loaded, SEQUENCES, None, request, asked[number + 1 :], seen.append)
        expected, by_itself = alone(request)
        assert equal(weights_of(loaded), expected) and without_seconds(report) == without_seconds(by_itself)
        assert seen == report.blocks
        assert len(one_pass.latest.answers) == len(asked) - 1 - number
    assert [kinds for kinds in passes if len(kinds) > 1] == [["diagonal", "gram"]]
    assert len(passes) == 1 + len(asked), "the pass, and each request by itself in this test"


def test_other_tokens_weights_or_a_cell_that_shares_nothing_take_no_answer(request_for, passes):
    one, other = request_for("wanda", HALF), request_for("wanda", TWO_OF_FOUR)
    changed = [SEQUENCES[0][::-1].copy(), *SEQUENCES[1:]]
    halves = [np.full(len(ids), 1.0 - 0.5 * (number % 2), np.float32) for number, ids in enumerate(SEQUENCES)]
    for sequences, weights in ((changed, None), (SEQUENCES, halves)):
        prune_with_others(model(), SEQUENCES, None, one, [other])
        assert one_pass.latest.answers and len(passes) == 1
        loaded = model()
        prune_with_others(loaded, sequences, weights, other, [])
        assert len(passes) == 2 and not one_pass.latest.answers
        assert equal(weights_of(loaded), alone(other, sequences, weights)[0])
        passes.clear()


def test_a_request_that_cannot_be_answered_costs_the_others_only_the_sharing(request_for, passes, capsys):
    good = [request_for("wanda", HALF), request_for("wanda", Sparsity(0.3))]
    bad = request_for("wanda", Sparsity(0.4, 3, 5))  # no linear has a multiple of 5 inputs
    loaded = model()
    prune_with_others(loaded, SEQUENCES, None, good[0], [bad, good[1]])
    assert equal(weights_of(loaded), alone(good[0])[0])
    said = capsys.readouterr().err.replace("\n", " ")
    assert "not a multiple of 5" in said and "each is pruned by itself" in said
    passes.clear()
    prune_with_others(model(), SEQUENCES, None, good[1], [bad])
    assert len(passes) == 1 and "cells failed" not in capsys.readouterr().err, "what failed is not tried again"


def test_a_pass_serves_as_many_as_fit_into_memory_and_the_next_takes_the_rest(request_for, passes, monkeypatch):
    asked = [request_for("wanda", Sparsity(value)) for value in (0.2, 0.3, 0.4, 0.5, 0.6)]
    size = sum(weight.nbytes for weight in weights_of(model()).values())
    held = []
    for fitting, expected in ((2, [1, 0, 1, 0, 0]), (0, [0] * 5)):
        monkeypatch.setattr(one_pass, "free_memory", lambda fitting=fitting: 2 * fitting * size)
        held = []
        for number, request in enumerate(asked):
            loaded = model()
            prune_with_others(loaded, SEQUENCES, None, request, asked[number + 1 :])
            held.append(len(one_pass.latest.answers))
            assert equal(weights_of(loaded), alone(request)[0])
        assert held == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 3000 * 1024), ("2500000", 2_500_000 - 1_000_000), (None, 3000 * 1024)]
)
def test_free_memory_is_the_machines_or_its_containers(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:       9000 kB\nMemAvailable:   3000 kB\n")
    monkeypatch.setattr(one_pass, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(one_pass, "CONTAINER", tmp_path)
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.stat").write_text("anon 1000000\nfile 70000\n")
    assert free_memory() == expected
    monkeypatch.setattr(one_pass, "MEMINFO", tmp_path / "none")
    assert free_memory() == one_pass.UNKNOWN


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_answers_wait_on_the_card_while_half_of_it_lasts(request_for, monkeypatch):
    asked = [request_for("wanda", Sparsity(share)) for share in (0.3, 0.5)]
    loaded = model()
    loaded.model.cuda()
    loaded.device = torch.device("cuda")
    size = sum(linear.weight.nbytes for linear in model_linears(loaded.model).values())
    for free, places in ((4 * size, {"cuda"}), (2 * size, {"cuda", "cpu"}), (0, {"cpu"})):
        monkeypatch.setattr(one_pass, "free_on_card", lambda device, free=free: free)
        found = answers(loaded, SEQUENCES, None, asked)
        assert {weight.device.type for answer in found for weight in answer.weights.values()} == places
