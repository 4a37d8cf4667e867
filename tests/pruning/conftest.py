import pytest

from ssgr.composition import option_file
from ssgr.config import AllocationConfig


@pytest.fixture(scope="session")
def pruner_config():
    """The values of a pruner's option file, some of them changed."""

    def build(name, **changes):
        return option_file("pruner", name, changes)

    return build


@pytest.fixture(scope="session")
def uniform():
    return AllocationConfig("uniform")
