"""The table of arms beside one of them, against the same numbers from the stored files, by numpy and pandas alone."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_studies import Problems, write_cell

from analysis.__main__ import main

SOURCES = {"self_generated": "own traces", "prompts_only": "prompts only", "general_text": "general text"}


def study(folder: Path, seeds=("0",), sparsities=("s40", "s50")) -> dict[tuple, list[Path]]:
    """Cells by sparsity and source; the rows of their samples are in an order of their own in every cell."""
    about, cells, rng = Problems(200), {}, np.random.default_rng(3)
    for sparsity in sparsities:
        for source in SOURCES:
            for seed in seeds:
                cell = write_cell(
                    folder, "mine", {"calibration": source, "sparsity": sparsity, "seed": seed, "limit": "200"}, about
                )
                samples = pd.read_parquet(cell / "samples.parquet")
                samples.iloc[rng.permutation(len(samples))].to_parquet(cell / "samples.parquet", index=False)
                cells.setdefault((sparsity, source), []).append(cell)
    return cells


def table(capsys, *arguments) -> tuple[list[dict[str, str]], str]:
    """The rows by their heads, and the legend."""
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    lines = [line.removeprefix("|").removesuffix("|") for line in out.splitlines() if line.startswith("|")]
    heads, _, *rows = [[part.strip() for part in line.split("|")] for line in lines]
    assert all(len(row) == len(heads) for row in rows)
    return [dict(zip(heads, row, strict=True)) for row in rows], out.splitlines()[-1]


def rates(cells: list[Path]) -> pd.DataFrame:
    """[seeds, problems] of accuracy, by problem."""
    found = [pd.read_parquet(cell / "samples.parquet") for cell in cells]
    return pd.DataFrame([samples.groupby("problem_id")["correct"].mean() for samples in found])


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.replace("−", "-").translate(str.maketrans("[],±()%", " " * 7)).split()]


def test_one_seed_is_what_numpy_makes_of_the_files(capsys, tmp_path):
    cells = study(tmp_path)
    rows, legend = table(capsys, "--runs", tmp_path, "--against", "calibration=general_text")
    assert [row["calibrated on"] for row in rows] == ["", *SOURCES.values(), *SOURCES.values()]
    dense = f"{Problems(200).pass_rate.mean():.3f} ± "
    assert rows[0]["pruned"] == "dense" and rows[0]["tiny_math (200 × 1)"].startswith(dense)
    assert rows[0]["tiny_math (200 × 1)"].endswith("(200 × 8)")
    rng = np.random.default_rng(11)
    for row, ((sparsity, source), [cell]) in zip(rows[1:], cells.items(), strict=True):
        assert (
            row["pruned"] == f"SparseGPT {sparsity[1:]}\N{NO-BREAK SPACE}%" and row["calibrated on"] == SOURCES[source]
        )
        mine = rates([cell]).iloc[0]
        error = mine.std(ddof=1) / np.sqrt(len(mine))
        assert row["tiny_math (200 × 1)"] == f"{mine.mean():.3f} ± {error:.3f}"
        kl = pd.read_parquet(cell / "divergence.parquet")["kl"]
        assert row["KL/token"] == f"{kl.mean():.4f} ± {kl.std(ddof=1) / np.sqrt(len(kl)):.4f}"
        samples = pd.read_parquet(cell / "samples.parquet")
        cut = (samples["finish_reason"] == "length").mean()
        assert row["tokens (cut)"] == f"{samples['tokens'].mean():,.0f} ({cut:.1%})"
        assert row["pruning s"] == "1.9" and row["generating s"] == f"{samples['tokens'].sum() / 5000:.0f}"
        if source == "general_text":
            assert row["− general text [95 %]"] == ""
            continue
        gaps = (mine - rates(cells[sparsity, "general_text"]).iloc[0]).to_numpy()  # aligned by problem
        value, low, high = numbers(row["− general text [95 %]"])
        assert value == pytest.approx(gaps.mean(), abs=6e-4)
        drawn = gaps[rng.integers(0, len(gaps), (9999, len(gaps)))].mean(1)
        assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.006)
    assert "one seed" in legend and "paired by problem" in legend and "variance components" not in legend


def test_several_seeds_are_one_row_and_the_legend_says_so(capsys, tmp_path):
    cells = study(tmp_path, seeds=("0", "1", "2"), sparsities=("s50",))
    rows, legend = table(capsys, "--runs", tmp_path, "--against", "calibration=self_generated")
    assert len(rows) == 1 + len(SOURCES) and "one seed" not in legend and "variance components" in legend
    own = rates(cells["s50", "self_generated"])
    for row, source in zip(rows[1:], SOURCES, strict=True):
        mine = rates(cells["s50", source])
        assert numbers(row["tiny_math (200 × 1)"])[0] == pytest.approx(mine.to_numpy().mean(), abs=6e-4)
        if source != "self_generated":
            value, low, high = numbers(row["− own traces [95 %]"])
            gap = (mine.mean() - own.mean()).mean()
            assert value == pytest.approx(gap, abs=6e-4) and low < value < high
            between = np.sqrt((mine.mean(axis=1).var(ddof=1) + own.mean(axis=1).var(ddof=1)) / 3)
            assert high - low > 2 * 1.96 * between * 0.5, "seeds are in it"


def test_each_task_has_its_columns_and_seconds_add_up(capsys, tmp_path):
    for (cell,) in study(tmp_path, sparsities=("s50",)).values():
        result = json.loads((cell / "result.json").read_text())
        for metrics in ("metrics", "dense_metrics"):
            more = {
                f"other/{name.split('/')[1]}": value for name, value in result[metrics].items() if "/kl" not in name
            }
            result[metrics] |= more | {f"{task}/seconds": 40.0 for task in ("tiny_math", "other")}
        (cell / "result.json").write_text(json.dumps(result))
        samples = pd.read_parquet(cell / "samples.parquet")
        pd.concat([samples, samples.assign(task="other", correct=True)]).to_parquet(cell / "samples.parquet")
    assert main(["--runs", str(tmp_path), "--against", "calibration=general_text"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny_reasoner:"
    heads = lines[2].strip("| ").split(" | ")
    assert heads[2] == "tiny_math (200 × 1)" and heads[6] == "other (200 × 1)", "what has a divergence comes first"
    assert heads.count("KL/token") == 1 and heads.count("− general text [95 %]") == 2
    for line in lines[4:8]:
        assert line.split("|")[-2].strip() == "80"
    assert (
        lines[5].split("|")[7].strip().startswith("1.000") and lines[5].split("|")[8].strip() == "0.000 [0.000, 0.000]"
    )


def test_an_arm_is_compared_with_what_is_like_it_in_all_else(capsys, tmp_path):
    study(tmp_path, sparsities=("s50",))
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "sparsity=0.5")
    assert {row["− 0.5 [95 %]"] for row in rows} == {""}
    write_cell(tmp_path, "mine", {"pruner": "wanda", "limit": "200"}, Problems(200))
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "pruner=wanda")
    assert [row["calibrated on"] for row in rows if row["− Wanda [95 %]"]] == ["own traces"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "calibration"], "--against calibration: must be KEY=VALUE"),
        (["--against", "nothing=1"], "must be one of pruner, pattern, calibration"),
        (["--against", "difficulty.level=1"], "is a part of difficulty, which is to be named instead"),
        (["--against", "calibration.path=x"], "does not tell arms apart"),
        (["--against", "pruner.one_pass=true"], "does not tell arms apart"),
        (["--against", "pruner.nothing=1"], "no config has such an option (pruner.sinks is one)"),
        (["--against", "pruner.sinks=all"], "no arm has it; pruner.sinks is keep"),
        (["--against", "calibration=c4"], "no arm has it; calibration is self_generated, prompts_only, general_text"),
        (["--against", "sparsity=s50"], "no arm has it; sparsity is 0.4, 0.5"),
        (["smoke", "--against", "calibration=c4"], "--against is an option of the table and the report, not of smoke"),
    ],
)
def test_what_the_user_can_set_right_is_one_line(capsys, tmp_path, arguments, said):
    study(tmp_path)
    assert main([*arguments, "--runs", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and said in err


def test_several_arms_that_could_be_the_baseline_are_named(capsys, tmp_path):
    study(tmp_path, sparsities=("s50",))
    write_cell(tmp_path, "mine", {"length": "short", "limit": "200"}, Problems(200))
    assert main(["--runs", str(tmp_path), "--against", "calibration=self_generated"]) == 2
    err = capsys.readouterr().err
    assert "several arms are like SparseGPT" in err and "choose with --where" in err
    assert main(["--runs", str(tmp_path), "--against", "calibration=self_generated", "--where", "length=all"]) == 0


def divergences(cells: list[Path]) -> np.ndarray:
    """[seeds, problems] of KL, by problem."""
    found = [pd.read_parquet(cell / "divergence.parquet").set_index("problem_id")["kl"].sort_index() for cell in cells]
    return np.array([values.to_numpy() for values in found])


def test_cells_of_the_divergence_alone_are_compared_by_it(capsys, tmp_path):
    alone = {"evaluation": "divergence", "evaluation.task": "tiny_math"}
    cells = {
        length: [
            write_cell(tmp_path, "mine", {"length": length, "seed": seed, "limit": "200", **alone}, Problems(200))
            for seed in ("0", "1", "2")
        ]
        for length in ("all", "short", "long")
    }
    rows, legend = table(capsys, "--runs", tmp_path, "--against", "length=all")
    heads = ["pruned", "calibrated on", "seeds", "tiny_math: KL/token (200)", "− all [95 %]", "pruning s"]
    assert list(rows[0]) == heads, "no row for the dense model, whose KL from itself is 0"
    every = divergences(cells["all"])
    for row, (length, folders) in zip(rows, cells.items(), strict=True):
        mine = divergences(folders)
        assert row["seeds"] == "3" and row["calibrated on"] == f"own traces ({length})".replace(" (all)", "")
        assert numbers(row["tiny_math: KL/token (200)"])[0] == pytest.approx(mine.mean(), abs=6e-5)
        if length == "all":
            assert row["− all [95 %]"] == ""
            continue
        value, low, high = numbers(row["− all [95 %]"])
        assert low < value < high and value == pytest.approx(mine.mean() - every.mean(), abs=6e-5)
    assert "accuracy" not in legend and "lower is better" in legend


def test_cells_of_the_divergence_alone_stand_beside_those_with_answers(capsys, tmp_path):
    alone = {"length": "short", "limit": "200", "evaluation": "divergence", "evaluation.task": "tiny_math"}
    every, short = (write_cell(tmp_path, "mine", more, Problems(200)) for more in ({"limit": "200"}, alone))
    *_, row = table(capsys, "--runs", tmp_path, "--against", "length=all")[0]
    gap = (divergences([short]) - divergences([every])).mean()
    assert numbers(row["KL − all [95 %]"])[0] == pytest.approx(gap, abs=6e-5) and row["− all [95 %]"] == ""


def test_kl_has_differences_beside_those_of_accuracy_but_not_between_sources(capsys, tmp_path):
    cells = {
        length: write_cell(tmp_path / "lengths", "mine", {"length": length, "limit": "200"}, Problems(200))
        for length in ("all", "long")
    }
    rows, _ = table(capsys, "--runs", tmp_path / "lengths", "--against", "length=all")
    gap = (divergences([cells["long"]]) - divergences([cells["all"]])).mean()
    assert rows[1]["KL − all [95 %]"] == "" and rows[1]["KL/token"] and rows[1]["− all [95 %]"] == ""
    assert numbers(rows[2]["KL − all [95 %]"])[0] == pytest.approx(gap, abs=6e-5)
    assert numbers(rows[2]["− all [95 %]"])[0] == pytest.approx(
        (rates([cells["long"]]) - rates([cells["all"]]).to_numpy()).to_numpy().mean(), abs=6e-4
    )
    study(tmp_path / "sources", sparsities=("s50",))
    rows, _ = table(capsys, "--runs", tmp_path / "sources", "--against", "calibration=general_text")
    assert not [head for head in rows[0] if head.startswith("KL −")], "KL is no judge between sources"


def test_an_option_of_the_config_tells_arms_apart_too(capsys, tmp_path):
    """The one with the same bin and the other sinks, not any other one."""
    about, made = Problems(200), {}
    for length in ("short", "long"):
        for sinks in ("keep", "exclude"):
            chosen = {"length": length, "pruner.sinks": sinks, "limit": "200"}
            made[length, sinks] = write_cell(tmp_path, "mine", chosen, about)
    rows, legend = table(capsys, "--runs", tmp_path, "--against", "pruner.sinks=keep")
    rows = {row["calibrated on"]: row for row in rows[1:]}
    assert len(rows) == 4 and "pruner.sinks=keep" in legend
    for length in ("short", "long"):
        gap = rates([made[length, "exclude"]]) - rates([made[length, "keep"]]).to_numpy()
        excluded = rows[f"own traces ({length}) [pruner.sinks exclude]"]["− keep [95 %]"]
        assert numbers(excluded)[0] == pytest.approx(gap.to_numpy().mean(), abs=6e-4)
        assert rows[f"own traces ({length}) [pruner.sinks keep]"]["− keep [95 %]"] == ""
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "length=short")
    rows = {row["calibrated on"]: row["− short [95 %]"] for row in rows[1:]}
    gap = rates([made["long", "exclude"]]) - rates([made["short", "exclude"]]).to_numpy()
    assert numbers(rows["own traces (long) [pruner.sinks exclude]"])[0] == pytest.approx(
        gap.to_numpy().mean(), abs=6e-4
    )


def test_an_option_that_a_column_says_is_that_column(capsys, tmp_path):
    for weights in ("all", "decode"):
        write_cell(tmp_path, "mine", {"calibration.token_weights": weights, "limit": "200"}, Problems(200))
    tables = []
    for key in ("token_weights", "calibration.token_weights"):
        rows, _ = table(capsys, "--runs", tmp_path, "--against", f"{key}=all")
        tables.append(rows)
    assert tables[0] == tables[1] and sum(bool(row["− all [95 %]"]) for row in tables[0]) == 1


def test_values_are_read_as_yaml_reads_them(capsys, tmp_path):
    for balance in ("[]", "[length]"):
        write_cell(tmp_path, "mine", {"selection.balance": balance, "limit": "200"}, Problems(200))
    write_cell(tmp_path, "mine", {"calibration.tokens": "1048576", "limit": "200"}, Problems(200))
    for value, head in (("[length]", "− [length] [95 %]"), ("[]", "− [] [95 %]")):
        rows, _ = table(
            capsys, "--runs", tmp_path, "--against", f"selection.balance={value}", "--where", "budget=16384"
        )
        assert sum(bool(row[head]) for row in rows) == 1
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "budget=1048576", "--where", "selection.balance=[]")
    assert sum(bool(row["− 1048576 [95 %]"]) for row in rows) == 1


def test_an_arm_that_differs_in_something_else_is_no_baseline(capsys, tmp_path):
    """Other sinks, another allocation, held still on another axis: none is like it in all else."""
    about = Problems(200)
    write_cell(tmp_path, "mine", {"length": "all", "limit": "200"}, about)
    for more in ({"pruner.sinks": "exclude"}, {"allocation": "owl"}, {"selection.balance": "[difficulty]"}):
        write_cell(tmp_path, "mine", {"length": "short", "limit": "200", **more}, about)
    rows, legend = table(capsys, "--runs", tmp_path, "--against", "length=all")
    assert len(rows) == 5 and {row["− all [95 %]"] for row in rows} == {""} and "(none could be made)" in legend
    write_cell(tmp_path, "mine", {"length": "short", "limit": "200"}, about)
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "length=all")
    assert sum(bool(row["− all [95 %]"]) for row in rows) == 1


def test_an_option_that_older_cells_lack_counts_as_its_default(capsys, tmp_path):
    about = Problems(200)
    older = write_cell(tmp_path, "mine", {"length": "all", "limit": "200"}, about)
    write_cell(tmp_path, "mine", {"length": "short", "limit": "200"}, about)
    write_cell(tmp_path, "mine", {"length": "long", "pruner.sinks": "exclude", "limit": "200"}, about)
    write_cell(tmp_path, "mine", {"length": "moderate", "selection.balance": "[difficulty]", "limit": "200"}, about)
    result = json.loads((older / "result.json").read_text())
    del result["config"]["pruner"]["sinks"], result["config"]["selection"]
    result["config"]["selection"] = {"correctness": "correct"}
    (older / "result.json").write_text(json.dumps(result))
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "length=all")
    assert [row["calibrated on"] for row in rows if row["− all [95 %]"]] == ["own traces (short)"]


def test_kl_on_other_dense_answers_is_not_subtracted(capsys, tmp_path):
    """The accuracies are, since they are paired by problem alone."""
    about = Problems(200)
    write_cell(tmp_path, "mine", {"length": "all", "limit": "200"}, about)
    other = write_cell(tmp_path, "mine", {"length": "short", "limit": "200"}, about)
    result = json.loads((other / "result.json").read_text())
    result["dense_metrics"]["tiny_math/accuracy"] += 0.01
    (other / "result.json").write_text(json.dumps(result))
    assert main(["--runs", str(tmp_path), "--against", "length=all"]) == 0
    out, err = capsys.readouterr()
    heads, _, *rows = [[part.strip() for part in line.split("|")] for line in out.splitlines() if line.startswith("|")]
    short = dict(zip(heads, rows[-1], strict=True))
    assert short["calibrated on"] == "own traces (short)" and short["− all [95 %]"] and short["KL − all [95 %]"] == ""
    assert "KL − all of SparseGPT" in err and "different dense answers" in err


def test_one_divergence_that_cannot_be_read_leaves_its_arm_the_others(capsys, tmp_path):
    alone = {"evaluation": "divergence", "evaluation.task": "tiny_math"}
    for length in ("all", "short"):
        for seed in ("0", "1", "2"):
            cell = write_cell(
                tmp_path, "mine", {"length": length, "seed": seed, "limit": "200", **alone}, Problems(200)
            )
    (cell / "divergence.parquet").write_bytes(b"")
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "length=all")
    assert [row["seeds"] for row in rows] == ["3", "2"] and rows[1]["− all [95 %]"]


def test_an_allocation_is_named_and_compared_with_another(capsys, tmp_path):
    for allocation in ("uniform", "owl"):
        write_cell(tmp_path, "mine", {"allocation": allocation, "limit": "200"}, Problems(200))
    rows, _ = table(capsys, "--runs", tmp_path, "--against", "allocation.name=uniform")
    assert [row["pruned"].replace("\N{NO-BREAK SPACE}", " ") for row in rows[1:]] == [
        "SparseGPT 50 %",
        "SparseGPT 50 %, owl",
    ]
    assert [bool(row["− uniform [95 %]"]) for row in rows[1:]] == [False, True]


def test_the_readme_shows_what_its_command_prints(capsys):
    """Numbers to a unit of their last digit: another release of scipy may draw otherwise."""
    root = Path(__file__).parents[2]
    section = (root / "README.md").read_text(encoding="utf-8").partition("### On a real model")[2].partition("\n## ")[0]
    assert "python -m analysis --runs analysis/example --study real_sources --against calibration=c4 " in section
    shown = [line for line in section.splitlines() if line.startswith("|")]
    arguments = ["--study", "real_sources", "--against", "calibration=c4"]
    assert main(["--runs", str(root / "analysis" / "example"), *arguments]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    number = re.compile(r"[−+]?[\d,]*\d(?:\.\d+)?")
    assert [number.sub("", line) for line in shown] == [number.sub("", line) for line in printed] and len(shown) == 15
    for one, other in zip(shown, printed, strict=True):
        for left, right in zip(number.findall(one), number.findall(other), strict=True):
            unit = 10.0 ** -len(right.partition(".")[2])
            assert abs(value_of(left) - value_of(right)) <= 1.5 * unit, (one, other)


def value_of(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))
