"""What was fetched of finished W&B runs:

<cache>/wandb/<entity>/<project>/<run>/manifest.json   what is kept, its checksums, and the state of the run it shows
                                       run.json        config and summary
                                       samples.json, divergence.json, history.json    once they were asked for
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssgr.cache import write_atomically, write_json


@dataclass
class RunCache:
    """What is kept of one finished run, for as long as the run stays in this state."""

    folder: Path
    state: dict[str, Any]
    usable: bool = True

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None where it is not kept, of another state, or damaged (which is said)."""
        checksum = self._checksums().get(name) if self.usable else None
        if checksum is None:
            return None
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() == checksum:
            return data
        print(f"{self.folder / name} is damaged and is fetched anew", file=sys.stderr)
        return None

    def write(self, name: str, data: bytes) -> None:
        """Keeps a file; where that cannot be done it is said, and nothing is lost but the next time's speed."""
        if not self.usable:
            return
        checksums = self._checksums() | {name: hashlib.sha256(data).hexdigest()}
        try:
            write_atomically(self.folder / name, lambda path: path.write_bytes(data))
            write_json(self.folder / "manifest.json", {"state": self.state, "files": checksums})
        except OSError as error:
            self.usable = False
            print(f"{self.folder}: what W&B sent cannot be kept ({error})", file=sys.stderr)

    def drop(self) -> None:
        try:
            (self.folder / "manifest.json").unlink(missing_ok=True)
        except OSError:
            self.usable = False

    def _checksums(self) -> dict[str, str]:
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            return manifest["files"] if manifest["state"] == self.state else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
