"""What several stories stand on."""

from collections.abc import Iterator

import pytest

from site_network import SiteNetwork


@pytest.fixture
def network() -> Iterator[SiteNetwork]:
    """A site behind a cable of its own; who may not lay one skips."""
    problem = SiteNetwork.problem()
    if problem is not None:
        pytest.skip(problem)
    with SiteNetwork() as network:
        yield network
