"""What a page may show of configs, messages and texts: no places of the machine that made them, no credentials."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.keep import without_places

HIDDEN = "…"
SECRET_NAME = re.compile(r"(^|[._-])(api_?key|token|secret|password|passwd|credentials?|authorization)$", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST = 8  # characters of a variable's value that is taken for a secret: `1` is none
USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
SECRET_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:key|token|secret|password|signature)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
KNOWN_SHAPES = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|wandb_v1_)[A-Za-z0-9_-]{16,}")


def without_secrets(text: str) -> str:
    """The text without what is a credential by its shape, by its place in a URL, or in this environment."""
    text = USER_IN_URL.sub("", text)
    text = SECRET_IN_QUERY.sub(rf"\1{HIDDEN}", text)
    text = KNOWN_SHAPES.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted option: value} with paths cut to their last part, and without the values of secret names."""
    return {name: without_secret_values(without_places(value, name), name) for name, value in options.items()}


def without_secret_values(value: Any, name: str) -> Any:
    if SECRET_NAME.search(name) and value:
        return HIDDEN
    if isinstance(value, dict):
        return {key: without_secret_values(item, key) for key, item in value.items()}
    return [without_secret_values(item, name) for item in value] if isinstance(value, list) else value


def without_folders(text: str, sources: Sequence[str]) -> str:
    """The text with absolute runs directories cut to their last part."""
    for source in sources:
        if Path(source).is_absolute():
            text = text.replace(str(Path(source)), Path(source).name)
    return text
