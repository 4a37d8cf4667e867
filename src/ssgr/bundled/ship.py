"""Makes what the package ships around the trained model: `python -m ssgr.bundled.ship` (minutes on a GPU).

The two problem sets, the rollouts of the 4,000 calibration problems, the dense model's samples of the 1,000
evaluation problems, and the figures of the model's card. Run `python -m ssgr.bundled.train` first.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from ssgr.bundled import problems as generator
from ssgr.cache import read_json, write_atomically
from ssgr.cell import fill
from ssgr.composition import folder
from ssgr.config import Config, register_schemas
from ssgr.engines.base import ENGINES
from ssgr.evaluation.dense import dense
from ssgr.models.load import load_model
from ssgr.traces.problems import load_problems
from ssgr.traces.prompts import PromptTemplate
from ssgr.traces.rollouts import collect
from ssgr.traces.store import StoreView
from ssgr.traces.tables import COLUMNS, difficulty_names, selection_table

HERE = Path(__file__).parent


def write_problems() -> None:
    sets = {
        "calibration": (generator.CALIBRATION_SEED, generator.CALIBRATION_PROBLEMS, "c"),
        "evaluation": (generator.EVALUATION_SEED, generator.EVALUATION_PROBLEMS, "e"),
    }
    for name, (seed, count, prefix) in sets.items():
        rows = [asdict(problem) for problem in generator.draw_problems(seed, count, prefix)]
        pq.write_table(pa.Table.from_pylist(rows), HERE / f"{name}.parquet", compression="zstd", compression_level=22)


def pack(store: Path, target: Path) -> None:
    """One part, a problem's traces side by side and in plain encoding: what zstd finds most repetitions in."""
    parts = [pq.read_table(path) for path in sorted((store / "traces").glob("part-*.parquet"))]
    table = pa.concat_tables(parts).sort_by([("problem_id", "ascending"), ("rollout", "ascending")])
    shutil.rmtree(target, ignore_errors=True)
    (target / "traces").mkdir(parents=True)
    options = {"compression": "zstd", "compression_level": 22, "use_dictionary": False, "write_statistics": False}
    part = target / "traces" / "part-00000.parquet"
    write_atomically(part, lambda path: pq.write_table(table, path, data_page_size=64 << 20, **options), checked=True)
    problems = pq.read_table(store / "problems.parquet")
    pq.write_table(problems, target / "problems.parquet", compression="zstd", compression_level=22)
    shutil.copy(store / "manifest.json", target / "manifest.json")


def statistics(view: StoreView) -> dict[str, Any]:
    """What the card says of the store: pass rates, bins, families, the grid, and how the two axes correlate."""
    table = pd.DataFrame({"pass_rate": view.pass_rate, "bin": pd.Series(difficulty_names(view))})
    table["family"] = {problem.problem_id: problem.family for problem in view.problems}
    table["level"] = {problem.problem_id: problem.level for problem in view.problems}
    table["tokens"] = view.traces.groupby("problem_id")["tokens"].mean()
    families = pd.crosstab(table["family"], table["bin"], normalize="columns")
    spearman = {
        family: spearmanr(1 - rows["pass_rate"], rows["tokens"]).statistic for family, rows in table.groupby("family")
    }
    one_each = view.traces[view.traces["correct"]].drop_duplicates("problem_id")
    grid = selection_table(view, one_each)
    return {
        "problems": len(view.problems),
        "k": view.k,
        "mean_pass_rate": view.pass_rate.mean(),
        "mean_tokens": view.traces["tokens"].mean(),
        "truncated": (view.traces["finish_reason"] != "stop").mean(),
        "bins": table["bin"].value_counts(normalize=True).to_dict(),
        "pass_rate_by_level": table.groupby("level")["pass_rate"].mean().to_dict(),
        "pass_rate_by_family": table.groupby("family")["pass_rate"].mean().to_dict(),
        "largest_family_share": families.max().to_dict(),
        "spearman_difficulty_length": spearman,
        "grid_tokens_one_trace_per_problem": {
            row: {column: int(grid.loc[row, f"{column}_tokens"]) for column in COLUMNS} for row in grid.index
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="rows that are generated at once")
    parser.add_argument("--k", type=int, default=8, help="samples of each problem")
    options = parser.parse_args()
    write_problems()
    register_schemas()
    with initialize_config_dir(str(folder("conf")), version_base="1.3"):
        config: Config = OmegaConf.to_object(compose("config"))
    fill(config)
    config.rollouts.problems, config.rollouts.k = generator.CALIBRATION_PROBLEMS, options.k
    config.evaluation.dense_repeats, config.engine.batch_size = options.k, options.batch
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch)
        loaded = load_model(config.model, torch.device("cuda" if torch.cuda.is_available() else "cpu"), cache)
        template = PromptTemplate(loaded.tokenizer, config.problems.instruction, loaded.think_end)
        engine = ENGINES.get("hf")(config.engine, loaded)
        problems = load_problems(config.problems)
        view = collect(engine, loaded, template, problems, config.rollouts, cache, config.problems.name)
        pack(view.store.folder, HERE / "rollouts")
        shutil.rmtree(HERE / "dense_samples", ignore_errors=True)
        found = dense(engine, loaded, template, config.evaluation, None, cache)
        pack(found.store.folder, HERE / "dense_samples")
    card = read_json(HERE / "card.json") or {}  # `speed` stays: it is measured by finished cells, not here
    card |= {"weights": loaded.weights_hash, "store": statistics(view), "dense": found.accuracy.metrics}
    (HERE / "card.json").write_text(json.dumps(card, indent=2, default=float) + "\n")
    print(json.dumps(card, indent=2, default=float))


if __name__ == "__main__":
    main()
