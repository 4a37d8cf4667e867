import pytest

from ssgr.config import (
    AllocationConfig,
    MagnitudeConfig,
    Propagation,
    PrunerConfig,
    Sinks,
    SparseGPTConfig,
    WandaConfig,
)


@pytest.fixture(scope="session")
def pruner_config():
    def build(
        name, propagation=Propagation.pruned, measure_error=False, sinks=Sinks.keep, damping=0.01, block_size=128
    ):
        shared = {"name": name, "propagation": propagation, "one_pass": False, "measure_error": measure_error}
        if name == "none":
            return PrunerConfig(name)
        if name == "magnitude":
            return MagnitudeConfig(**shared)
        if name == "wanda":
            return WandaConfig(**shared, sinks=sinks)
        return SparseGPTConfig(**shared, sinks=sinks, damping=damping, block_size=block_size)

    return build


@pytest.fixture(scope="session")
def uniform():
    return AllocationConfig("uniform")
