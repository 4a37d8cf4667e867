"""How much memory does pruning a whole model take, with model.offload and without, and are the weights the same?

    python tests/benchmarks/offload_memory.py --shape qwen2_1_5b --tokens 16x512 --device cpu
    python tests/benchmarks/offload_memory.py --shape qwen2_7b --tokens 128x2048 --device cuda --card-limit 10

Random weights of the shape are saved as safetensors, and for each pruner a fresh process with and one without offload
loads them as a cell does and prunes them to 50 %. Printed are its largest resident set (which counts pages of mapped
files too), what of that its own memory came to at most (anonymous, sampled), the card's peak, and seconds. The weights
that come out are compared by a hash of their bytes. With --card-limit a process may take no more than so much of the
card, as if it were a smaller one.
"""

import argparse
import hashlib
import multiprocessing
import resource
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from cost import SHAPES, numbers
from engines import composed
from prune_speed_model import random_sequences, shortened
from rich.table import Table
from transformers import AutoModelForCausalLM

from ssgr.models.blocks import model_linears
from ssgr.models.files import BUNDLED_MODEL
from ssgr.models.load import DTYPES, load_model
from ssgr.progress import console, say
from ssgr.pruning.loop import prune_model
from ssgr.pruning.sparsity import Sparsity

GIB = 2**30
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # a model folder needs some
SAMPLED = 0.02  # seconds between two looks at the anonymous memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2_1_5b")
    parser.add_argument("--blocks", type=int, help="prune only so many of the loaded model's blocks")
    parser.add_argument("--tokens", type=numbers("x"), default=(16, 512), help="SEQUENCESxLENGTH")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the files and of the computation")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--card-limit", type=float, help="GiB of the card that a process may take (default: all)")
    parser.add_argument("--pruners", type=lambda text: text.split(","), default=["wanda", "sparsegpt"])
    given = parser.parse_args()
    fresh = multiprocessing.get_context("spawn")
    table = Table("pruner", "offload", "model", "peak, loaded", "peak", "− model", "anonymous", "card", "seconds")
    with tempfile.TemporaryDirectory(prefix="ssgr-") as folder:
        alone(fresh, write_model, given, Path(folder))
        for pruner in given.pruners:
            found = [alone(fresh, measure, given, Path(folder), pruner, offload) for offload in (False, True)]
            for row in found:
                sizes = (row[name] for name in ("model", "loaded", "peak", "over", "anonymous", "card"))
                offload = "yes" if row["offload"] else "no"
                took = f"{row['seconds']:.0f}" if row["weights"] else "does not fit"
                table.add_row(pruner, offload, *(f"{size / GIB:.2f}" for size in sizes), took)
            weights = {row["weights"] for row in found}
            if None not in weights:  # both fitted
                same = "the same, bit by bit" if len(weights) == 1 else "NOT THE SAME"
                say(f"{pruner}: the pruned weights are {same}")
    console.print(f"GiB; {given.shape}, {given.tokens[0]} x {given.tokens[1]} tokens, {given.dtype}, {given.device}")
    console.print(table)


def alone(fresh: Any, work: Any, *arguments: Any) -> Any:
    """What `work` returns in a process of its own, whose memory nothing came before."""
    with fresh.Pool(1) as pool:
        return pool.apply(work, arguments)


def write_model(given: argparse.Namespace, folder: Path) -> None:
    torch.manual_seed(0)
    config = SHAPES[given.shape].config()
    with torch.device(given.device):  # a CPU takes minutes for the random numbers of 7B
        AutoModelForCausalLM.from_config(config, dtype=DTYPES[given.dtype]).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(BUNDLED_MODEL / name, folder)


def measure(given: argparse.Namespace, folder: Path, pruner: str, offload: bool) -> dict[str, Any]:
    overrides = ["model=hub", f"model.path={folder}", f"model.dtype={given.dtype}", f"pruner={pruner}"]
    config = composed([*overrides, f"model.offload={str(offload).lower()}"])
    device, sampled = torch.device(given.device), Sampled()
    if given.card_limit:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(given.card_limit * GIB / total)
    say(f"{pruner}, {'with' if offload else 'without'} offload")
    found = {"offload": offload, "model": model_size(given), "weights": None, "seconds": 0.0, "loaded": 0}
    with suppress(torch.OutOfMemoryError):
        loaded = load_model(config.model, device, folder / "cache")
        found["loaded"] = peak()
        sequences = random_sequences(loaded.model.config.vocab_size, *given.tokens)
        started = time.perf_counter()
        with shortened(loaded.model, given.blocks):
            prune_model(loaded, sequences, None, config.pruner, config.allocation, Sparsity(0.5))
        found |= {"seconds": time.perf_counter() - started, "weights": weights_of(loaded.model)}
    found |= {"anonymous": sampled.most(), "peak": peak()}
    card = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return found | {"over": found["peak"] - found["model"], "card": card}


def model_size(given: argparse.Namespace) -> int:
    """Bytes of the shape's weights, known before they are loaded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(SHAPES[given.shape].config(), dtype=DTYPES[given.dtype])
    return sum(weight.nbytes for weight in model.parameters())


def peak() -> int:
    """Bytes: the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Sampled:
    """The largest anonymous part of the resident set: what is not a page of a file, which the system can take back."""

    def __init__(self) -> None:
        self._largest, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLED):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self._largest = max(self._largest, kilobytes * 1024)

    def most(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._largest


def weights_of(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, linear in model_linears(model).items():
        digest.update(name.encode())
        digest.update(linear.weight.data.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
