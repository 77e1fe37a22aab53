"""Fixtures of the tests; what they are made of is in the modules beside this one."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.cluster import Cluster, cluster

# A shell has SIGINT ignored in what it starts in the background, and so would all that the tests
# start in their turn.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A machine that also runs Spark makes any single example slow.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One dispatcher and two workers of one slot, for every test that does no harm to them."""
    with cluster(tmp_path_factory.mktemp("pool")) as started:
        yield started
