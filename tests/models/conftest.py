import pytest
import tiny_models

from ssgr.config import ModelConfig


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny Qwen2 with tied embeddings, saved as a user would have it; copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.save(tiny_models.build("qwen2", tie_word_embeddings=True), folder)
    return folder


@pytest.fixture
def config_for():
    def build(path, **changes) -> ModelConfig:
        values = {"name": "hub", "path": None if path is None else str(path), "revision": None, "dtype": "bfloat16"}
        values |= {
            "offload": False,
            "think_end": None,
            "enable_thinking": None,
            "trust_remote_code": False,
            "fallback": None,
        }
        return ModelConfig(**(values | changes))

    return build


@pytest.fixture
def fast_in_bf16(monkeypatch):
    """Models compute in bf16 whatever processor this is, so that they can be compared bit for bit with a plain one."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
