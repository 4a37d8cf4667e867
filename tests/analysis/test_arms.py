"""Arms: what is averaged, what is aligned, and what is refused instead of being averaged away."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic_studies import ALONE, Problems, write_cell, write_study

from analysis import load_divergence, load_runs, load_samples
from analysis.arms import Data, gather
from analysis.comparable import rank
from ssgr.errors import UserError


def data_of(runs, study=None) -> Data:
    return Data(load_runs(runs, study), load_samples(runs, study), load_divergence(runs, study))


@pytest.fixture(scope="module")
def difficulty(tmp_path_factory):
    runs = tmp_path_factory.mktemp("arms")
    write_study(runs, "difficulty_effect", seeds=3)
    return data_of(runs)


def test_an_arm_holds_every_seed_and_problem_as_its_cells_left_them(difficulty):
    arms = gather(difficulty, ("difficulty",))
    assert [arm.values["difficulty"] for arm in arms] == ["all", "easy", "medium", "hard"]
    hard = arms.find(difficulty="hard")
    assert hard.seeds == (0, 1, 2) and hard.accuracy.shape == hard.kl.shape == (3, 60)
    for row, cell in enumerate(hard.cells):
        samples = difficulty.samples[difficulty.samples["cell"] == cell].set_index("problem_id")
        divergence = difficulty.divergence[difficulty.divergence["cell"] == cell].set_index("problem_id")
        assert hard.accuracy[row].tolist() == samples.loc[arms.problems, "correct"].astype(float).tolist()
        assert hard.generated[row].tolist() == samples.loc[arms.problems, "tokens"].tolist()
        assert hard.kl[row].tolist() == divergence.loc[arms.problems, "kl"].tolist()
    assert arms.common["pruner"] == "sparsegpt" and arms.common["problems"] == 60


def test_rows_in_any_order_give_the_same_arms(difficulty):
    shuffled = Data(
        *(
            frame.sample(frac=1, random_state=1)
            for frame in (difficulty.runs, difficulty.samples, difficulty.divergence)
        )
    )
    for arm, other in zip(gather(difficulty, ("difficulty",)), gather(shuffled, ("difficulty",)), strict=True):
        assert arm.key == other.key and arm.seeds == other.seeds
        assert np.array_equal(arm.accuracy, other.accuracy) and np.array_equal(arm.kl, other.kl)


def test_repeats_are_averaged_within_their_problem(difficulty):
    again = difficulty.samples.assign(repeat=1, correct=True)
    runs = difficulty.runs.assign(repeats=2.0)
    arms = gather(Data(runs, pd.concat([difficulty.samples, again]), difficulty.divergence), ("difficulty",))
    once = gather(difficulty, ("difficulty",))
    assert np.array_equal(arms.arms[0].accuracy, (once.arms[0].accuracy + 1) / 2)


def test_the_dense_model_is_known_problem_by_problem_from_the_divergence_table(difficulty):
    arms, problems = gather(difficulty, ("difficulty",)), Problems()
    assert arms.problems.tolist() == problems.ids
    assert arms.dense.accuracy.tolist() == problems.pass_rate.tolist()
    assert arms.dense.value == pytest.approx(problems.pass_rate.mean()) and arms.dense.repeats == 8
    assert arms.held_out["difficulty"].tolist() == problems.difficulty


def test_without_divergence_the_dense_model_is_a_mean_and_that_is_said(difficulty):
    arms = gather(Data(difficulty.runs, difficulty.samples, difficulty.divergence.iloc[:0]), ("difficulty",))
    assert arms.dense.accuracy is None and arms.dense.value == pytest.approx(Problems().pass_rate.mean())
    assert not arms.has_kl and any("nothing is paired" in note for note in arms.notes)


def test_one_cell_without_divergence_costs_its_arm_the_kl_and_is_said(difficulty):
    cell = difficulty.runs["cell"].iloc[0]
    lacking = difficulty.divergence[difficulty.divergence["cell"] != cell]
    arms = gather(Data(difficulty.runs, difficulty.samples, lacking), ("difficulty",))
    assert [arm.kl is None for arm in arms].count(True) == 1
    assert arms.notes == ["1 of 12 cells have no divergence table"]


def test_cells_that_measured_the_divergence_alone_are_arms_without_accuracy(tmp_path):
    write_study(tmp_path, "difficulty_effect", **ALONE)
    data = data_of(tmp_path)
    assert data.samples.empty and data.runs["accuracy"].isna().all() and data.runs["repeats"].isna().all()
    arms = gather(data, ("difficulty",))
    assert arms.has_kl and not arms.has_accuracy and arms.notes == []
    for arm in arms:
        assert arm.measure("accuracy") is None and arm.measure("generated") is None and arm.kl.shape == (3, 60)
    assert arms.problems.tolist() == Problems().ids and arms.dense.accuracy is not None
    cell = data.runs["cell"].iloc[0]
    lacking = data.divergence[data.divergence["cell"] != cell]
    with pytest.raises(UserError, match=f"{cell} has no divergence table of tiny_math"):
        gather(Data(data.runs, data.samples, lacking), ("difficulty",))
    write_study(tmp_path, "difficulty_effect", seeds=1)
    with pytest.raises(UserError, match="the same arm and seed, but not the same cell"):
        gather(data_of(tmp_path), ("difficulty",))


def test_seeds_that_not_every_arm_has_are_left_out_and_named(difficulty):
    runs = difficulty.runs[~((difficulty.runs["difficulty"] == "hard") & (difficulty.runs["seed"] == 1))]
    arms = gather(Data(runs, difficulty.samples, difficulty.divergence), ("difficulty",))
    assert {arm.seeds for arm in arms} == {(0, 2)}
    assert arms.notes == ["difficulty hard lacks seed 1: only what every arm has is drawn, seed 0, 2"]
    none = difficulty.runs[(difficulty.runs["difficulty"] == "hard") == (difficulty.runs["seed"] == 1)]
    with pytest.raises(UserError, match="no calibration seed in common"):
        gather(Data(none, difficulty.samples, difficulty.divergence), ("difficulty",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pruner": "wanda"}, r"differ in pruner \(wanda, sparsegpt\): choose with --where pruner=sparsegpt"),
        ({"sparsity": "s40"}, r"differ in sparsity \(0.4, 0.5\): choose with --where sparsity=0.5"),
        ({"length": "short"}, r"differ in length \(all, short\)"),
        ({"calibration.tokens": "2048"}, r"differ in tokens \(2048, 16384\)"),
        ({"pruner.damping": "0.1"}, r"differ in pruner.damping \(0.01, 0.1\)"),
        ({"rollouts.k": "4"}, r"differ in rollouts.k \(4, 8\)"),
        ({"evaluation.temperature": "0.7"}, r"differ in evaluation.temperature"),
    ],
)
def test_cells_that_differ_in_more_than_the_arms_and_seeds_are_refused(tmp_path, changes, said):
    write_cell(tmp_path, "mixed", {"difficulty": "easy", "seed": "0"})
    write_cell(tmp_path, "mixed", {"difficulty": "hard", "seed": "0"} | changes)
    with pytest.raises(UserError, match=f"mixed: the cells {said}") as refused:
        gather(data_of(tmp_path), ("difficulty",))
    assert "\n" not in str(refused.value)


def test_options_that_change_nothing_do_not_tell_cells_apart(tmp_path):
    more = {"engine.batch_size": "8", "engine.gpu_memory_utilization": "0.4", "engine.replicas_per_card": "2"}
    write_cell(tmp_path, "same", {"difficulty": "easy"})
    write_cell(tmp_path, "same", {"difficulty": "hard", "device": "cuda"} | more)
    assert len(gather(data_of(tmp_path), ("difficulty",))) == 2


def test_two_cells_of_one_arm_and_seed_are_refused_by_name(tmp_path):
    folder = write_cell(tmp_path, "twice", {"difficulty": "easy"})
    write_cell(tmp_path, "twice", {"difficulty": "hard"})
    copy = folder.with_name(folder.name + "b")
    folder.rename(folder.with_name("kept"))
    for name in (folder, copy):
        name.mkdir()
        for file in folder.with_name("kept").iterdir():
            (name / file.name).write_bytes(file.read_bytes())
        result = json.loads((name / "result.json").read_text())
        (name / "result.json").write_text(json.dumps(result | {"cell": name.name}))
    for file in folder.with_name("kept").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="same arm and seed, but not the same cell") as refused:
        gather(data_of(tmp_path), ("difficulty",))
    assert folder.name in str(refused.value) and copy.name in str(refused.value)


def test_cells_over_different_problems_are_refused(difficulty):
    cell = difficulty.runs["cell"].iloc[0]
    fewer = difficulty.samples[(difficulty.samples["cell"] != cell) | (difficulty.samples["problem_id"] != "e0003")]
    with pytest.raises(UserError, match=f"not evaluated on the same problems .{cell} has 59"):
        gather(Data(difficulty.runs, fewer, difficulty.divergence), ("difficulty",))


def test_cells_with_other_dense_evaluations_are_refused(difficulty):
    cell = difficulty.runs["cell"].iloc[0]
    rates = difficulty.divergence["pass_rate"].where(difficulty.divergence["cell"] != cell, 0.5)
    with pytest.raises(UserError, match="different dense evaluations"):
        gather(
            Data(difficulty.runs, difficulty.samples, difficulty.divergence.assign(pass_rate=rates)), ("difficulty",)
        )


def test_a_cell_without_samples_is_named(difficulty):
    cell = difficulty.runs["cell"].iloc[0]
    lacking = difficulty.samples[difficulty.samples["cell"] != cell]
    with pytest.raises(UserError, match=f"{cell} has no samples of tiny_math"):
        gather(Data(difficulty.runs, lacking, difficulty.divergence), ("difficulty",))


def test_an_arm_that_no_seed_chose_has_no_axis_of_seeds(difficulty):
    runs = difficulty.runs[difficulty.runs["seed"] == 0]
    runs = runs.assign(seed=runs["seed"].where(runs["difficulty"] != "easy"))
    arms = gather(Data(runs, difficulty.samples, difficulty.divergence), ("difficulty",))
    easy, hard = arms.find(difficulty="easy"), arms.find(difficulty="hard")
    assert easy.seeds == (None,) and easy.measure("accuracy").shape == (60,)
    assert hard.measure("accuracy").shape == (1, 60)


def test_bins_stand_in_their_order_whatever_they_are_called():
    difficulties = ["hard", "pass0.1to0.2", "all", "easy", "medium"]
    assert sorted(difficulties, key=lambda name: rank("difficulty", name)) == [
        "all",
        "easy",
        "medium",
        "hard",
        "pass0.1to0.2",
    ]
    lengths = ["long", "moderate", "all", "short"]
    assert sorted(lengths, key=lambda name: rank("length", name)) == ["all", "short", "moderate", "long"]
    tokens = ["tokens1000to2000", "tokens100to900"]
    assert sorted(tokens, key=lambda name: rank("length", name)) == ["tokens100to900", "tokens1000to2000"]


def drawn_anew(data, rows):
    """The same, but the dense model was evaluated anew for these rows of the divergence tables."""
    table = data.divergence.copy()
    table.loc[rows, "pass_rate"] = 1 - table.loc[rows, "pass_rate"]
    table.loc[rows & (table["problem_id"] == table["problem_id"].iloc[0]), "difficulty"] = "never"
    return Data(data.runs, data.samples, table)


def test_another_dense_evaluation_for_some_seeds_of_all_arms_is_one_of_several(difficulty):
    late = difficulty.divergence["cell"].isin(difficulty.runs.loc[difficulty.runs["seed"] == 2, "cell"])
    arms, before = (gather(data, ("difficulty",)) for data in (drawn_anew(difficulty, late), difficulty))
    rates = Problems().pass_rate
    assert arms.dense.accuracy == pytest.approx(np.full(60, 0.5)) and arms.dense.repeats == 16
    assert arms.dense.se == pytest.approx(0.0, abs=1e-12)
    assert (arms.held_out["difficulty"] == "").tolist() == [True] + [False] * 59
    assert "evaluated 2 times (for calibration seeds 0, 1; 2)" in arms.notes[0] and len(arms.notes) == 1
    for one, other in zip(arms, before, strict=True):
        assert np.array_equal(one.kl, other.kl) and np.array_equal(one.accuracy, other.accuracy)
    assert before.dense.accuracy.tolist() == rates.tolist()


def test_another_dense_evaluation_for_an_arm_or_for_what_has_no_seed_is_refused(difficulty):
    hard = difficulty.divergence["cell"].isin(difficulty.runs.loc[difficulty.runs["difficulty"] == "hard", "cell"])
    with pytest.raises(UserError, match="different dense evaluations"):
        gather(drawn_anew(difficulty, hard), ("difficulty",))
    late = difficulty.divergence["cell"].isin(difficulty.runs.loc[difficulty.runs["seed"] == 2, "cell"])
    untold = difficulty.runs.assign(dense_accuracy=difficulty.runs["dense_accuracy"] + (difficulty.runs["seed"] == 2))
    with pytest.raises(UserError, match="different dense evaluations"):
        gather(Data(untold, difficulty.samples, difficulty.divergence[~late]), ("difficulty",))
    data = drawn_anew(difficulty, late)
    runs = data.runs.copy()
    runs.loc[runs["difficulty"] == "all", "seed"] = np.nan
    runs = runs[(runs["difficulty"] != "all") | ~runs["difficulty"].duplicated()]
    with pytest.raises(UserError, match="different dense evaluations"):
        gather(Data(runs, data.samples, data.divergence), ("difficulty",))
