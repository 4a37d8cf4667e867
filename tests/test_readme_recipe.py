"""README's "Add a pruner", followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from command_line import QUICK, cells, start

from ssgr.results import read_result

ROOT = Path(__file__).parents[1]


def test_a_pruner_added_as_the_readme_says_prunes_and_passes_the_tests_of_pruners(tmp_path, monkeypatch):
    for folder in ("src", "conf", "multirun_templates", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Add a pruner")[2]
    written = re.findall(r"`((?:src|conf)/\S+)`[^`]*```\w+\n(.*?)```", recipe, re.DOTALL)
    for place, code in written:
        (tmp_path / place).write_text(code, encoding="utf-8")
    assert len(written) == 2

    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    _, err = start(f"{QUICK} pruner=mine evaluation.divergence=false", tmp_path).communicate(timeout=120)
    (cell,) = cells(tmp_path)
    result = read_result(cell)
    assert result["config"]["pruner"]["name"] == "mine" and abs(result["sparsity"]["achieved"] - 0.5) < 1e-6, err

    chosen = ["test_config.py", "pruning/test_pruners.py", "pruning/test_loop.py", "-k", "mine or agree"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=tmp_path / "tests", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 6
