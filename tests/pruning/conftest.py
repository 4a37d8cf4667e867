import pytest

from ssgr.config import (
    AllocationConfig,
    ALPSConfig,
    DampingBasis,
    MagnitudeConfig,
    Propagation,
    PrunerConfig,
    RIAConfig,
    Sinks,
    SparseGPTConfig,
    WandaConfig,
)

OWN = {  # schema and usual values of the options that only this pruner has
    "alps": (ALPSConfig, {"ridge": 0.01, "rho": 0.1, "iterations": 300, "cg_steps": 10}),
    "ria": (RIAConfig, {"activation_power": 0.5}),
    "sparsegpt": (SparseGPTConfig, {"damping": 0.01, "damping_basis": DampingBasis.mean, "block_size": 128}),
}


@pytest.fixture(scope="session")
def pruner_config():
    def build(name, propagation=Propagation.pruned, measure_error=False, sinks=Sinks.keep, **options):
        shared = {"name": name, "propagation": propagation, "one_pass": False, "measure_error": measure_error}
        if name == "none":
            return PrunerConfig(name)
        if name == "magnitude":
            return MagnitudeConfig(**shared)
        if name == "wanda":
            return WandaConfig(**shared, sinks=sinks)
        schema, usual = OWN[name]
        assert options.keys() <= usual.keys()
        return schema(**shared, sinks=sinks, **usual | options)

    return build


@pytest.fixture(scope="session")
def uniform():
    return AllocationConfig("uniform")
