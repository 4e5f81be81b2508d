from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.config import KEYS, Config, Layer, Source, merge
from inroad.core.config_read import read_extensions, read_mapping, read_yaml
from inroad.core.config_values import duration, servers, show, subnets


def problems(text: str) -> list[str]:
    return [str(problem) for problem in read_yaml(text, "config.yml").problems]


# --- values


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (4, 4.0),
        (0.5, 0.5),
        ("0", 0.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2h45m", 9900.0),
        ("1m30.5s", 90.5),
        ("10us", 1e-5),
        ("10µs", 1e-5),
    ],
)
def test_durations(raw: Any, seconds: float) -> None:
    assert duration(raw) == pytest.approx(seconds)


@pytest.mark.parametrize("raw", ["", "4", "4 s", "-1s", "1d", "h", True, None, [], -1])
def test_what_is_no_duration(raw: Any) -> None:
    with pytest.raises(ValueError, match="must be seconds or a duration"):
        duration(raw)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_go_durations_add_up(hours: int, minutes: int, seconds: int, millis: int) -> None:
    wanted = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert duration(f"{hours}h{minutes}m{seconds}s{millis}ms") == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("192.0.2.53", [("192.0.2.53", 53)]),
        (["192.0.2.53:5353", "2001:db8::53"], [("192.0.2.53", 5353), ("2001:db8::53", 53)]),
        (["[2001:db8::53]:5353", "[2001:db8::53]"], [("2001:db8::53", 5353), ("2001:db8::53", 53)]),
    ],
)
def test_servers(raw: Any, wanted: list[tuple[str, int]]) -> None:
    assert servers(raw) == tuple((ip_address(address), port) for address, port in wanted)


@pytest.mark.parametrize(
    "raw", ["dns.example", "192.0.2.53:0", "192.0.2.53:x", "[2001:db8::53", "[::1]53", [53], 53]
)
def test_what_is_no_server(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"no address|no port|must be a list"):
        servers(raw)


def test_subnets_may_be_one_string() -> None:
    both = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))
    assert subnets("10.1.0.0/16, fd00::/64") == subnets(["10.1.0.0/16", "fd00::/64"]) == both


def test_a_subnet_with_host_bits_says_what_is_meant() -> None:
    with pytest.raises(ValueError, match=r"is 10\.1\.0\.0/16 meant\?"):
        subnets("10.1.2.3/16")


# --- files


def test_a_whole_file() -> None:
    layer = read_yaml(
        """
dns:
  localAddresses: [192.0.2.53]
  includeSuffixes: [.private.example]
  excludes: [db.local]
  mappings:
    - {name: db, aliasFor: db.orders}
    - {name: legacy.example, aliasFor: 10.1.2.3}
  lookupTimeout: 2s
routing:
  alsoProxySubnets: 10.1.0.0/16
cluster:
  mappedNamespaces: [shop, orders]
timeouts:
  endpointDial: 500ms
logLevels:
  rootDaemon: debug
  userDaemon: trace
""",
        "config.yml",
    )
    assert layer.problems == ()
    config = merge([layer]).config
    assert config.local_addresses == ((ip_address("192.0.2.53"), 53),)
    assert config.include_suffixes == (".private.example",)
    assert config.mappings == (("db", "db.orders"), ("legacy.example", "10.1.2.3"))
    assert (config.lookup_timeout, config.endpoint_dial) == (2.0, 0.5)
    assert config.also_proxy == (ip_network("10.1.0.0/16"),)
    assert config.mapped_namespaces == ("shop", "orders")
    assert config.log_level == "debug"
    assert config.exclude_suffixes == Config().exclude_suffixes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "dns:\n  includeSufixes: [.a]\n",
            "config.yml:2: dns.includeSufixes: unknown; is dns.includeSuffixes meant?",
        ),
        ("\n\ndsn:\n  excludes: [a]\n", "config.yml:4: dsn.excludes: unknown; is dns.excludes meant?"),
        (
            "routing:\n  includeSuffixes: [.a]\n",
            "config.yml:2: routing.includeSuffixes: unknown; is dns.includeSuffixes meant?",
        ),
        ("surprise: 1\n", "config.yml:1: surprise: unknown"),
        (
            "dns:\n  lookupTimeout: 5 minutes\n",
            "config.yml:2: dns.lookupTimeout: must be seconds or a duration such as 500ms, 4s or 1h30m",
        ),
        (
            "routing:\n  neverProxySubnets: [ten]\n",
            "config.yml:2: routing.neverProxySubnets: 'ten' is no subnet; write it like 10.1.0.0/16",
        ),
        ("dns:\n  recursionCheck: maybe\n", "config.yml:2: dns.recursionCheck: must be true or false"),
        ("vif:\n  mode: tap\n", "config.yml:2: vif.mode: must be auto, veth or tun"),
        ("dns: yes\n", "config.yml:1: dns: must be a section with keys of its own"),
        (
            "dns:\n  mappings: [{name: a}]\n",
            "config.yml:2: dns.mappings: each mapping must have a name and an aliasFor",
        ),
        ("dns:\n  excludes: [a..b]\n", "config.yml:2: dns.excludes: 'a..b' has an empty label"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, wanted: str) -> None:
    assert problems(text) == [wanted]


def test_unknown_is_a_warning_wrong_is_an_error() -> None:
    layer = read_yaml("dns:\n  exclude: [a]\n  lookupTimeout: x\n  recursionCheck: false\n", "config.yml")
    assert [problem.fatal for problem in layer.problems] == [False, True]
    assert layer.values == {"recursion_check": False}


@pytest.mark.parametrize("text", ["", "# nothing\n", "dns:\n", "---\n"])
def test_nothing_is_a_configuration(text: str) -> None:
    assert read_yaml(text, "config.yml") == Layer(Source.FILE)


@pytest.mark.parametrize("text", ["dns: [", "a: b: c", "- x\n", "just text", "a: 2001-99-99", "[" * 5000])
def test_what_is_no_configuration(text: str) -> None:
    [problem] = read_yaml(text, "config.yml").problems
    assert problem.fatal


@given(st.text(max_size=200))
def test_any_text_is_read_without_crashing(text: str) -> None:
    read_yaml(text, "config.yml")


# --- extensions


def test_our_extension() -> None:
    layer = read_extensions(
        [{"name": "inroad", "extension": {"dns": {"includeSuffixes": [".a"]}}}], "kubeconfig"
    )
    assert layer == Layer(Source.KUBECONFIG, {"include_suffixes": (".a",)})


def test_old_spellings_of_the_other_extension() -> None:
    content = {
        "dns": {"local-ip": "192.0.2.53", "include-suffixes": [".a"], "exclude-suffixes": [".b"]},
        "also-proxy": ["10.1.0.0/16"],
        "neverProxy": ["10.2.0.0/16"],
        "manager": {"namespace": "ambassador"},
        "cluster": {"defaultManagerNamespace": "ambassador"},
    }
    layer = read_extensions([{"name": "telepresence.io", "extension": content}], "kubeconfig")
    assert layer.problems == ()
    assert layer.values == {
        "local_addresses": ((ip_address("192.0.2.53"), 53),),
        "include_suffixes": (".a",),
        "exclude_suffixes": (".b",),
        "also_proxy": (ip_network("10.1.0.0/16"),),
        "never_proxy": (ip_network("10.2.0.0/16"),),
    }


def test_ours_wins_over_the_other() -> None:
    extensions = [
        {"name": "inroad", "extension": {"dns": {"includeSuffixes": [".ours"]}}},
        {
            "name": "telepresence.io",
            "extension": {"dns": {"includeSuffixes": [".theirs"], "excludes": ["a"]}},
        },
        {"name": "minikube", "extension": {"provider": "minikube.sigs.k8s.io"}},
    ]
    values = read_extensions(extensions, "kubeconfig").values
    assert values == {"include_suffixes": (".ours",), "excludes": ("a",)}


@pytest.mark.parametrize(
    "extensions", [None, [], "x", [{"name": "inroad"}], [3], [{"name": "inroad", "extension": 1}]]
)
def test_extensions_that_say_nothing(extensions: Any) -> None:
    assert read_extensions(extensions, "kubeconfig") == Layer(Source.KUBECONFIG)


# --- merging


def test_later_sources_win_whatever_their_order() -> None:
    layers = [
        Layer(Source.COMMAND_LINE, {"also_proxy": (ip_network("10.3.0.0/16"),)}),
        Layer(
            Source.MANAGER,
            {"also_proxy": (ip_network("10.1.0.0/16"),), "endpoint_dial": 1.0, "excludes": ("m",)},
        ),
        Layer(Source.KUBECONFIG, {"excludes": ("k",)}),
        Layer(Source.FILE, {"excludes": ("f",), "lookup_timeout": 9.0}),
    ]
    merged = merge(layers)
    assert merged.config.also_proxy == (ip_network("10.3.0.0/16"),)
    assert merged.config.excludes == ("k",)
    assert merged.config.endpoint_dial == 1.0
    assert {
        name: merged.sources[name].label
        for name in ("also_proxy", "excludes", "endpoint_dial", "lookup_timeout", "mappings")
    } == {
        "also_proxy": "command line",
        "excludes": "kubeconfig",
        "endpoint_dial": "manager",
        "lookup_timeout": "config.yml",
        "mappings": "built-in",
    }


def test_every_value_has_a_key_and_every_key_a_value() -> None:
    assert [key.field for key in KEYS] == list(Config.__dataclass_fields__)


def test_shown_values_can_be_read_again() -> None:
    for key in KEYS:
        built_in = getattr(Config(), key.field)
        assert key.read(show(built_in)) == built_in, key.name
    config = merge(
        [
            read_mapping(
                {"dns": {"localAddresses": ["[::1]:53"], "mappings": [{"name": "a", "aliasFor": "b"}]}},
                "",
                Source.FILE,
            )
        ]
    ).config
    assert show(config.local_addresses) == ["[::1]:53"]
    assert show(config.mappings) == [{"name": "a", "aliasFor": "b"}]
