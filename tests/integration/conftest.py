"""One sandbox for all tests that only look at it, or clean up what they change in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from stage import Stage


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make soak` says."""
    parser.addoption("--soak-minutes", type=float, default=0, help="let test_soak.py run that long")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Stage]:
    """Yield a sandbox as `inroad sandbox up` makes it by default, up for the whole run. Needs root.

    `sandbox.run(*argv, place=...)` runs a command in it, `sandbox.state` is what `up --json` printed,
    `sandbox.kubeconfig()` the administrator's kubeconfig.
    """
    if os.geteuid() != 0:
        pytest.skip("the sandbox makes network namespaces")
    stage = Stage(f"t{os.getpid()}")
    stage.up()
    try:
        yield stage
    finally:
        stage.down()
