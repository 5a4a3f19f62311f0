"""Tests of one group run on one worker: they share costly fixtures, and some go on where another has ended."""

import os

import pytest

pytestmark = pytest.mark.xdist_group("groups")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="needs several workers, as `make test` has")
def test_the_groups_reach_the_scheduler(request: pytest.FixtureRequest) -> None:
    """The scheduler reads a test's group from its id; a pytest that keeps ids elsewhere splits every group."""
    assert request.node.nodeid.endswith("@groups")
