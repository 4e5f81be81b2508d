"""Which SYNs are our own dials come back: a table of signs, and the dials in flight against a slow model."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.loops import Loops, Rules, Sign

STALE = ("10.96.7.7", 80)
STALE6 = ("fd00:10:96::77", 80)
VIF = "246.246.0.1"
PODS = (ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64"))
RULES = Rules(pods=PODS, ports=frozenset({45123}))


def dialling(*targets: tuple[str, int], rules: Rules = RULES) -> Loops:
    loops = Loops(rules)
    for flow, target in enumerate(targets):
        loops.dialled(flow, target)
    return loops


@pytest.mark.parametrize(
    ("what", "source", "target", "ttl", "expected"),
    [
        ("a local program's second connect", (VIF, 40001), STALE, 64, None),
        ("a local program of another host address", ("192.168.1.5", 40001), STALE, 64, None),
        ("masqueraded to our own address, one hop away", (VIF, 40001), STALE, 63, Sign.FORWARDED),
        ("masqueraded, many hops away", (VIF, 40001), STALE, 2, Sign.FORWARDED),
        ("from the port that the cluster side named", (VIF, 45123), STALE, 64, Sign.DIALLED_FROM),
        ("from a pod, its TTL put up again", ("10.244.1.9", 40001), STALE, 64, Sign.FROM_POD),
        ("from a pod of a subnet that is not routed", ("10.244.9.9", 40001), STALE, 64, None),
        ("forwarded to another port", (VIF, 40001), ("10.96.7.7", 81), 63, None),
        ("forwarded to another address", (VIF, 40001), ("10.96.7.8", 80), 63, None),
        ("a pod to another address", ("10.244.1.9", 45123), ("10.96.7.8", 80), 60, None),
        ("IPv6, local", ("fd00:0:0:246::1", 40001), STALE6, 64, None),
        ("IPv6, forwarded", ("fd00:0:0:246::1", 40001), STALE6, 63, Sign.FORWARDED),
        ("IPv6, from a pod", ("fd00:10:244:1::9", 40001), STALE6, 64, Sign.FROM_POD),
        ("a program that asks for a higher TTL", (VIF, 40001), STALE, 128, None),
    ],
)
def test_signs_of_a_recursion(what, source, target, ttl, expected):
    assert dialling(STALE, STALE6).judge(source, target, ttl, 0.0) is expected, what


def test_nothing_is_a_recursion_while_nothing_is_dialled():
    assert Loops(RULES).judge(("10.244.1.9", 45123), STALE, 1, 0.0) is None


def test_a_dial_that_has_ended_is_not_in_flight():
    loops = dialling(STALE, STALE)
    loops.ended(0)
    assert loops.judge((VIF, 1), STALE, 63, 0.0) is Sign.FORWARDED
    loops.ended(1)
    loops.ended(1)
    assert loops.judge((VIF, 1), STALE, 63, 0.0) is None
    assert loops.in_flight == 0


def test_a_flow_that_is_dialled_again_counts_once():
    loops = dialling(STALE)
    loops.dialled(0, STALE)
    loops.dialled(0, ("10.96.7.8", 80))
    assert loops.judge((VIF, 1), STALE, 63, 0.0) is None
    loops.ended(0)
    assert loops.judge((VIF, 1), ("10.96.7.8", 80), 63, 0.0) is None


def test_a_host_that_starts_with_another_ttl():
    loops = dialling(STALE, rules=Rules(ttl=128))
    assert loops.judge((VIF, 1), STALE, 127, 0.0) is Sign.FORWARDED
    assert loops.judge((VIF, 1), STALE, 128, 0.0) is None


@pytest.mark.parametrize(
    ("block", "later", "expected"),
    [(0.0, 0.0, None), (5.0, 0.0, Sign.BLOCKED), (5.0, 4.9, Sign.BLOCKED), (5.0, 5.0, None)],
)
def test_a_destination_is_blocked_for_as_long_as_was_configured(block, later, expected):
    loops = dialling(STALE, rules=Rules(block=block))
    assert loops.judge((VIF, 1), STALE, 63, 100.0) is Sign.FORWARDED
    loops.clear()
    assert loops.judge((VIF, 2), STALE, 64, 100.0 + later) is expected
    assert loops.judge((VIF, 2), ("10.96.7.8", 80), 64, 100.0 + later) is None


def test_who_is_refused_while_blocked_does_not_make_it_longer():
    loops = dialling(STALE, rules=Rules(block=5.0))
    loops.judge((VIF, 1), STALE, 63, 0.0)
    assert loops.judge((VIF, 1), STALE, 63, 4.0) is Sign.BLOCKED
    loops.clear()
    assert loops.judge((VIF, 1), STALE, 64, 6.0) is None


HOSTS = st.sampled_from([VIF, "192.168.1.5", "10.244.1.9", "10.244.9.9"])
TARGETS = st.tuples(st.sampled_from(["10.96.7.7", "10.96.7.8"]), st.sampled_from([80, 443]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("dial"), st.integers(0, 4), TARGETS),
        st.tuples(st.just("end"), st.integers(0, 4)),
        st.tuples(
            st.just("syn"),
            st.tuples(HOSTS, st.sampled_from([40001, 45123])),
            TARGETS,
            st.integers(1, 66),
            st.integers(0, 3),
        ),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 4))
def test_like_a_model_that_remembers_everything(steps, block):
    rules = Rules(pods=PODS, ports=frozenset({45123}), block=float(block))
    loops, flights, seen, now = Loops(rules), {}, [], 0
    for step in steps:
        match step:
            case ("dial", flow, target):
                flights[flow] = target
                loops.dialled(flow, target)
            case ("end", flow):
                flights.pop(flow, None)
                loops.ended(flow)
            case ("syn", (host, port), target, ttl, passed):
                now += passed
                blocked = any(one == target and now < at + block for one, at in seen)
                strange = ttl < 64 or port == 45123 or host == "10.244.1.9"
                recursion = target in flights.values() and strange
                assert (loops.judge((host, port), target, ttl, now) is not None) == (blocked or recursion)
                if recursion and not blocked:
                    seen.append((target, now))
        assert loops.in_flight == len(flights)


@given(
    st.integers(1, 63), st.lists(st.sampled_from([VIF, "10.89.0.2", "10.244.1.9"]), min_size=1, max_size=50)
)
def test_a_loop_dials_once_however_often_it_comes_round(ttl, sources):
    """Each round would be a dial of its own if the one before it had been dialled."""
    loops, dials = Loops(RULES), 0
    for flow, (source, hops) in enumerate([(VIF, 64), *((source, ttl) for source in sources)]):
        if loops.judge((source, 40000 + flow), STALE, hops, 0.0) is None:
            loops.dialled(flow, STALE)
            dials += 1
    assert dials == 1
