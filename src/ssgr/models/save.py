"""Writing a model where transformers and vLLM load it as it is."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ssgr.models.blocks import model_linears
from ssgr.models.precision import weights_in

if TYPE_CHECKING:
    from ssgr.models.load import LoadedModel


def save_checkpoint(loaded: "LoadedModel", folder: Path, card: str | None = None) -> None:
    """Writes safetensors weights in the model's dtype, configuration and tokenizer to `folder`, whole or not at all.

    `card` is the text of its README.md; without one there is none.
    Zeros of the pruned linears are +0.0 in the model and in the file; no sparsity_config is written.
    """
    for linear in model_linears(loaded.model).values():
        linear.weight.data.add_(0.0)  # -0.0 + 0.0 is +0.0, every other number stays
    with weights_in(loaded.model, loaded.dtype):
        write_model(loaded.model, loaded.tokenizer, folder, card)


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str | None = None
) -> None:
    """Both as files in `folder`, whole or not at all; a folder that is there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        if model.generation_config is not None:  # as of a class from the hub that transformers cannot generate with
            model.generation_config = writable(model.generation_config)
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
                os.chmod(path, 0o644)  # the weights are written for their owner alone
        os.chmod(temporary, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def writable(config: GenerationConfig) -> GenerationConfig:
    """The generation config as a checkpoint can carry it: transformers reads more than it is willing to write.

    Options of sampling without `do_sample`, which many published models have, say that they are meant to be sampled
    from. Of one that is wrong all the same the ids of special tokens are left.
    """
    for sampling in (config.do_sample, True):
        config.do_sample = sampling
        with suppress(ValueError):
            config.validate(strict=True)
            return config
    return GenerationConfig(**{name: value for name, value in config.to_diff_dict().items() if name.endswith("_id")})
