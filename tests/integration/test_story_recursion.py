"""A cluster on the developer's own machine that asks this workstation for what it does not know.

program ── resolv.conf's server, led to us ── tunnel ── cluster DNS ── workstation's resolver ── us
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from stage import Stage, connected_stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")
WAYS = {
    "kept": (),
    "folded-cached": ("--upstream-fold", "--upstream-cache", "30"),
}
LOOKUP_MS = 4_000
"""What a denial would take if a lookup that came back were waited for."""


@pytest.fixture(scope="module", params=WAYS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Yield such a sandbox, connected."""
    options = ("--upstream", "workstation", "--nodes", "1", *WAYS[request.param])
    with connected_stage("t-recursion", *options) as found:
        found.state["folds"] = request.param.startswith("folded")
        yield found


def test_it_is_found_and_shown(stage: Stage) -> None:
    how = "repetition" if stage.state["folds"] else "letter case"
    assert stage.ask("status")["dns"]["recursion"] == f"found, told by {how}"


def test_names_are_what_they_are_in_a_pod(stage: Stage) -> None:
    for url in ("http://web/", "http://web.shop/", "http://web.shop.svc.cluster.local/"):
        assert stage.curl(url)["namespace"] == "shop"
    assert stage.curl("http://web.default/")["namespace"] == "default"
    assert stage.run("getent", "ahostsv4", "www.example").stdout


@pytest.mark.parametrize(
    "name", ["nothing", "nothing.shop", "nothing.shop.svc.cluster.local", "nothing.example"]
)
def test_names_that_nobody_has_are_denied_in_good_time(stage: Stage, name: str) -> None:
    said = stage.run("dig", "+tries=1", "+time=5", name).stdout
    assert "status: NXDOMAIN" in said
    took = re.search(r"Query time: (\d+) msec", said)
    assert took is not None
    assert int(took[1]) < LOOKUP_MS


def test_many_who_ask_at_once_are_all_answered(stage: Stage) -> None:
    """The same name again and again is no recursion."""
    asked = "for i in $(seq 30); do dig +short web.shop & done; wait"
    answers = stage.run("sh", "-c", asked).stdout.splitlines()
    addresses = [line for line in answers if line.startswith("10.96.")]
    assert len(addresses) == 30
    assert len(set(addresses)) == 1
