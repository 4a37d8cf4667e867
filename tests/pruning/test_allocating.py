"""Allocations on the loop's way: what they read of the dense model, one pass for many, the report, their options."""

from dataclasses import fields, replace

import pytest
import tiny_models
import torch
from test_allocation import ALPHA, CONFIGS, OWL, SCORED, by_name, pruned, targets, unequal_model
from test_loop import SEQUENCES, token_weights

from ssgr.config import SCHEMAS, Propagation, Sinks, Tail
from ssgr.errors import CellError, UserError
from ssgr.models.blocks import model_linears
from ssgr.pruning.allocation import ALLOCATIONS
from ssgr.pruning.loop import Request, prune_model
from ssgr.pruning.one_pass import answers
from ssgr.pruning.sparsity import Sparsity


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_owl_does_not_depend_on_the_batches(architecture, pruner_config):
    found = []
    for batch_tokens in (1, 8 * 24, 10_000):
        model, report = pruned(
            OWL,
            pruner_config("wanda"),
            model=tiny_models.build(architecture),
            weights=token_weights(),
            batch_tokens=batch_tokens,
        )
        masks = torch.cat([(linear.weight == 0).flatten() for linear in model_linears(model).values()])
        found.append((targets(report), masks))
    assert len(set(found[0][0])) > 2
    for row, masks in found[1:]:
        assert row == found[0][0] and torch.equal(masks, found[0][1])


def test_sinks_and_token_weights_reach_the_shares(pruner_config):
    def shares(**options):
        weights = options.pop("weights", None)
        model = unequal_model()
        model.model.embed_tokens.weight.data[SEQUENCES[0][0], :3] *= 50
        _, report = pruned(OWL, pruner_config("wanda", **options), model=model, weights=weights)
        return [row["block_outlier_share"] for row in report.rows]

    usual = shares()
    assert shares(sinks=Sinks.exclude) != usual != shares(weights=token_weights())


def test_only_owl_walks_the_dense_blocks_first(pruner_config, uniform, passes):
    for config, pruner, expected in (
        (uniform, "sparsegpt", [["gram"]]),
        (uniform, "magnitude", []),
        (ALPHA, "magnitude", []),
        (ALPHA, "wanda", [["diagonal"]]),
        (OWL, "magnitude", [["diagonal"]]),
        (OWL, "sparsegpt", [["diagonal"], ["gram"]]),
        (OWL, "none", []),
    ):
        passes.clear()
        pruned(config, pruner_config(pruner))
        assert passes == expected
    passes.clear()
    pruned(OWL, pruner_config("wanda"), value=0.0, sequences=None)
    assert not passes


def test_owl_makes_even_magnitude_need_tokens(pruner_config):
    with pytest.raises(CellError, match="no tokens"):
        pruned(OWL, pruner_config("magnitude"), sequences=None)


@pytest.mark.parametrize("sinks", [Sinks.keep, Sinks.exclude])
def test_answers_of_one_pass_are_those_of_each_by_itself(sinks, pruner_config, uniform, passes):
    def request(name, config, value):
        options = {} if name == "magnitude" else {"sinks": sinks}
        return Request(pruner_config(name, propagation=Propagation.dense, **options), config, Sparsity(value))

    asked = [
        request(name, config, value)
        for name in ("sparsegpt", "wanda", *["magnitude"] * (sinks == Sinks.keep))
        for config in (uniform, OWL, ALPHA, replace(OWL, outlier_multiple=2.0))
        for value in (0.5, 0.6)
    ]
    found = answers(tiny_models.loaded(unequal_model(torch.bfloat16)), SEQUENCES, None, asked)
    assert passes == [["diagonal"], ["diagonal", "gram"]], "the dense diagonals once for all"
    for one, answer in zip(asked, found, strict=True):
        model, report = pruned(one.allocation, one.pruner, one.sparsity.value, model=unequal_model(torch.bfloat16))
        again = unequal_model(torch.bfloat16)
        answer.put_into(again)
        for name, linear in model_linears(model).items():
            assert torch.equal(linear.weight, model_linears(again)[name].weight), (one, name)
        assert targets(answer.report) == targets(report)


def test_the_spectra_of_a_block_serve_all_sparsities(pruner_config, monkeypatch):
    seen, real = [], ALLOCATIONS.get("alphapruning").score
    monkeypatch.setattr(
        ALLOCATIONS.get("alphapruning"), "score", lambda self, *given: seen.append(1) or real(self, *given)
    )
    pruner = pruner_config("magnitude", propagation=Propagation.dense)
    answers(
        tiny_models.loaded(unequal_model()), None, None, [Request(pruner, ALPHA, Sparsity(v)) for v in (0.3, 0.5, 0.6)]
    )
    assert len(seen) == 3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=by_name)
def test_the_report_says_what_a_block_scored(config, pruner_config):
    _, report = pruned(config, pruner_config("magnitude"))
    usual = {"name", "shape", "target", "achieved", "damping", "damping_over_median_diagonal", "sinks"}
    usual |= {"sink_energy_share", "seconds"}
    score = {"owl": {"block_outlier_share"}, "alphapruning": {"block_alpha"}}.get(config.name, set())
    assert all(set(row) == usual | score for row in report.rows)


@pytest.mark.parametrize("config", SCORED, ids=by_name)
@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sparsegpt"])
def test_patterns_are_refused_before_anything_is_read(pruner, config, pruner_config, passes):
    model = unequal_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=f"allocation={config.name}: 2:4 masks the same share"):
        prune_model(tiny_models.loaded(model), SEQUENCES, None, pruner_config(pruner), config, Sparsity(0.5, 2, 4))
    assert not passes and all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


CHANGES = {"outlier_multiple": 2.0, "spread": 0.1, "relative_spread": 0.2, "tail": Tail.peak}


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_option_of_an_allocation_changes_what_is_pruned(name, pruner_config):
    config = CONFIGS[name]
    assert type(config) is SCHEMAS.get(f"allocation/{name}", SCHEMAS["allocation"])
    usual = targets(pruned(config, pruner_config("magnitude"))[1])
    for option in fields(config):
        if option.name != "name":
            changed = replace(config, **{option.name: CHANGES[option.name]})
            assert targets(pruned(changed, pruner_config("magnitude"))[1]) != usual, option.name


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_what_reads_calibration_says_so_before_torch_is_there(name):
    assert CONFIGS[name].reads_calibration == (ALLOCATIONS.get(name).needs == "diagonal")
    assert CONFIGS[name].is_uniform == (not ALLOCATIONS.get(name).score_name)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_matrix_that_would_lose_all_of_its_weights_is_named(name, pruner_config):
    said = r"sparsity\.value=0\.9995: model\.layers\.\d\.\S+ would lose all of its [\d,]+ weights"
    with pytest.raises(UserError, match=said):
        pruned(CONFIGS[name], pruner_config("magnitude"), 0.9995)
