"""The configuration on a connected workstation: sources are merged, shown, and followed while it lives."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from stage import Stage

from inroad.core.errors import ConfigInvalid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox makes network namespaces")

FILE = "/run/home/dev/.config/inroad/config.yml"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Stage]:
    """Yield a running sandbox."""
    stage = Stage("t-config")
    stage.up()
    try:
        stage.run("mkdir", "-p", "/run/home/dev/.config/inroad")
        yield stage
    finally:
        stage.down()


@pytest.fixture
def stage(sandbox: Stage) -> Iterator[Stage]:
    """Yield the sandbox, with neither a connection nor a configuration file."""
    yield sandbox
    sandbox.inroad("quit", status=None)
    sandbox.run("rm", "-f", FILE)


def values(stage: Stage) -> dict[str, tuple[Any, str]]:
    """Return each key's value and source, as `inroad config view` shows them."""
    return {
        value["key"]: (value["value"], value["source"]) for value in stage.ask("config", "view")["values"]
    }


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Return when the condition holds; fail when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def routed(stage: Stage) -> dict[str, str]:
    """Return the source of each routed subnet."""
    return {subnet["cidr"]: subnet["source"] for subnet in stage.ask("status")["subnets"]}


def resolves(stage: Stage, name: str) -> bool:
    """Say whether the workstation finds an address for a name."""
    return stage.run("getent", "ahostsv4", name, status=None).returncode == 0


def test_without_a_connection_the_users_files_are_shown(stage: Stage) -> None:
    stage.write(FILE, "dns:\n  lookupTimeout: 2s\n")
    changed = yaml.safe_load(stage.kubeconfig())
    changed["clusters"][0]["cluster"]["extensions"] = [
        {
            "name": "telepresence.io",
            "extension": {"dns": {"include-suffixes": [".corp"]}, "also-proxy": ["10.77.0.0/16"]},
        }
    ]
    stage.write("/run/home/dev/.kube/config", yaml.safe_dump(changed))
    try:
        shown = values(stage)
    finally:
        stage.write("/run/home/dev/.kube/config", stage.kubeconfig())
    assert shown["dns.lookupTimeout"] == (2.0, "config.yml")
    assert shown["dns.includeSuffixes"] == ([".corp"], "kubeconfig")
    assert shown["routing.alsoProxySubnets"] == (["10.77.0.0/16"], "kubeconfig")
    assert shown["cluster.defaultManagerNamespace"] == ("inroad", "built-in")


def test_flags_win_over_the_file(stage: Stage) -> None:
    stage.write(FILE, "routing:\n  alsoProxySubnets: [10.77.0.0/16]\n  neverProxySubnets: [10.78.1.0/24]\n")
    stage.inroad("connect", "-n", "shop", "--also-proxy", "10.78.0.0/16,10.79.0.0/16")
    shown = values(stage)
    assert shown["routing.alsoProxySubnets"] == (["10.78.0.0/16", "10.79.0.0/16"], "command line")
    assert shown["routing.neverProxySubnets"] == (["10.78.1.0/24"], "config.yml")
    subnets = routed(stage)
    assert subnets["10.78.0.0/16"] == subnets["10.79.0.0/16"] == "also-proxy"
    assert "10.77.0.0/16" not in subnets
    assert "10.78.1.0/24" in stage.ask("status")["never_proxy"]
    route = stage.run("ip", "route", "get", "10.78.2.1").stdout
    assert "inroad0" in route
    assert "inroad0" not in stage.run("ip", "route", "get", "10.78.1.1").stdout


def test_mapped_namespaces_are_the_names_that_resolve(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop", "--mapped-namespaces", "shop")
    assert resolves(stage, "web.shop")
    assert not resolves(stage, "web.default")
    assert resolves(stage, "web.default.svc.cluster.local")


def test_another_name_server_for_other_names(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop", "--dns", stage.address("lan"))
    assert stage.ask("status")["dns"]["fallback"] == [f"{stage.address('lan')}:53"]
    assert resolves(stage, "www.example")


def test_the_file_is_followed_while_connected(stage: Stage) -> None:
    stage.inroad("connect", "-n", "shop")
    assert not resolves(stage, "shortcut.example")
    stage.write(
        FILE, "dns:\n  mappings: [{name: shortcut.example, aliasFor: web.default.svc.cluster.local}]\n"
    )
    eventually(lambda: resolves(stage, "shortcut.example"))
    assert stage.curl("http://shortcut.example/")["namespace"] == "default"
    stage.write(FILE, "routing:\n  alsoProxySubnets: 10.77.0.0/16\n")
    eventually(lambda: "10.77.0.0/16" in routed(stage))
    assert not resolves(stage, "shortcut.example")


def test_the_log_says_as_much_as_the_file_wants_while_connected(stage: Stage) -> None:
    def refusals() -> int:
        stage.run("nc", "-z", "-w", "5", stage.address(stage.pods("shop/web")[0]), "81", status=1)
        return stage.run("cat", "/run/inroad/daemon.log", user="root").stdout.count("dial refused")

    stage.inroad("connect", "-n", "shop")
    assert refusals() == 0
    stage.write(FILE, "logLevels:\n  daemon: debug\n")
    eventually(lambda: refusals() > 0)
    stage.write(FILE, "logLevels:\n  daemon: error\n")
    eventually(lambda: values(stage)["logLevels.daemon"] == ("error", "config.yml"))
    before = refusals()
    assert refusals() == before


def test_a_wrong_file_is_refused_with_its_place(stage: Stage) -> None:
    stage.write(FILE, "dns:\n  excludes: [a]\n  lookupTimeout: soon\n")
    done = stage.inroad("connect", status=ConfigInvalid.exit_code)
    assert f"{FILE}:3: dns.lookupTimeout: must be seconds" in done.stderr.splitlines()[-1]
    assert stage.inroad("config", "check", status=ConfigInvalid.exit_code).stdout.startswith(
        f"error: {FILE}:3:"
    )


def test_a_file_that_turns_wrong_is_told_and_the_old_values_stay(stage: Stage) -> None:
    stage.write(FILE, "routing:\n  alsoProxySubnets: 10.77.0.0/16\n")
    stage.inroad("connect", "-n", "shop")
    stage.write(FILE, "routing:\n  alsoProxySubnets: ten\n")
    eventually(lambda: any("alsoProxySubnets" in warning for warning in stage.ask("status")["warnings"]))
    assert "10.77.0.0/16" in routed(stage)


def test_an_unknown_key_is_a_warning(stage: Stage) -> None:
    stage.write(FILE, "dns:\n  exclude: [a]\n")
    stage.inroad("connect", "-n", "shop")
    assert any("is dns.excludes meant?" in warning for warning in stage.ask("config", "view")["problems"])


@pytest.mark.parametrize(
    "arguments", [("--also-proxy", "ten"), ("--dns", "dns.example"), ("--mapped-namespaces", "No_Name")]
)
def test_a_wrong_flag_is_wrong_usage(stage: Stage, arguments: tuple[str, ...]) -> None:
    assert arguments[0] in stage.inroad("connect", *arguments, status=2).stderr
