"""The real command line, in this process or in one of its own, and options that make a cell quick."""

import os
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_dir

from ssgr import cli, composition
from ssgr.config import Config

# Completions are cut after a few words: such a cell is complete in two seconds, and its accuracy is 0.
QUICK = (
    "rollouts=bundled calibration.tokens=1024 limit=8 evaluation.max_new_tokens=24 evaluation.dense_repeats=2 "
    "engine.batch_size=8 tracking=disabled"
)

FAST = f"{QUICK} pruner=magnitude evaluation.divergence=false"  # in one second


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.strip().splitlines()


def ssgr(line: str, folder: Path) -> Done:
    """`ssgr <line>` inside `folder`, with its cache in folder/cache, in this process."""
    out, err = StringIO(), StringIO()
    arguments = mock.patch.object(sys, "argv", ["ssgr", *shlex.split(line)])
    environment = mock.patch.dict(os.environ, {"SSGR_CACHE": str(folder / "cache")})
    with chdir(folder), arguments, environment, redirect_stdout(out), redirect_stderr(err):
        try:
            status = cli.main()
        except SystemExit as error:  # how argparse ends
            status = error.code
    return Done(status, out.getvalue(), err.getvalue())


def start(line: str, folder: Path, code: str = "import sys; from ssgr.cli import main; sys.exit(main())"):
    """The same in a process of its own, which is returned while it runs."""
    environment = {**os.environ, "SSGR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code, *shlex.split(line)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **options)


def config_of(*overrides: str) -> Config:
    """The config that these overrides compose to."""
    composition.register()
    with initialize_config_dir(str(composition.folder("conf")), version_base="1.3"):
        return composition.as_object(compose("config", list(overrides)))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def cells(folder: Path, study: str = "single") -> list[Path]:
    """The run directories of a study below folder/runs, by name."""
    found = (folder / "runs" / study).glob("[!.]*/")
    return sorted(path for path in found if path.is_dir())
