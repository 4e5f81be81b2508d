"""Which SYNs are our own dials come back: a table of signs, and the dials in flight against a slow model."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.loops import HOP_LIMIT, MOST_HOPS, Loops, Rules, Sign, is_marked

STALE = ("10.96.7.7", 80)
STALE6 = ("fd00:10:96::77", 80)
VIF = "246.246.0.1"
PODS = (ip_network("10.244.1.0/24"), ip_network("10.9.0.0/18"), ip_network("fd00:10:244:1::/64"))
RULES = Rules(pods=PODS)


def dialling(*targets: tuple[str, int], rules: Rules = RULES) -> Loops:
    loops = Loops(rules)
    for flow, target in enumerate(targets):
        loops.dialled(flow, target)
    return loops


@pytest.mark.parametrize(
    ("what", "source", "target", "hops", "expected"),
    [
        ("a local program's second connect", (VIF, 40001), STALE, 64, None),
        ("a local program of another host address", ("192.168.1.5", 40001), STALE, 64, None),
        ("a container's connect to the same destination", ("172.17.0.3", 40001), STALE, 63, None),
        ("a container's, masqueraded", (VIF, 40001), STALE, 63, None),
        ("a container's in a container, of Windows", (VIF, 40001), STALE, 126, None),
        ("ours, masqueraded to our own address, one hop away", (VIF, 40001), STALE, 111, Sign.MARKED),
        ("ours, from the host itself", (VIF, 40001), STALE, 112, Sign.MARKED),
        ("ours, many hops away", (VIF, 40001), STALE, 97, Sign.MARKED),
        ("ours, to what is not being dialled any more", (VIF, 40001), ("10.96.7.8", 80), 110, Sign.MARKED),
        ("from a pod, its hop limit put up again", ("10.244.1.9", 40001), STALE, 64, Sign.FROM_POD),
        ("from a pod of a wider subnet", ("10.9.63.255", 40001), STALE, 64, Sign.FROM_POD),
        ("from beside it", ("10.9.64.0", 40001), STALE, 64, None),
        ("from a pod of a subnet that is not routed", ("10.244.9.9", 40001), STALE, 64, None),
        ("from a pod to another address", ("10.244.1.9", 45123), ("10.96.7.8", 80), 60, None),
        ("from a pod to another port", ("10.244.1.9", 45123), ("10.96.7.7", 81), 60, None),
        ("IPv6, local", ("fd00:0:0:246::1", 40001), STALE6, 64, None),
        ("IPv6, ours", ("fd00:0:0:246::1", 40001), STALE6, 111, Sign.MARKED),
        ("IPv6, from a pod", ("fd00:10:244:1::9", 40001), STALE6, 64, Sign.FROM_POD),
        ("a program that asks for a higher hop limit", (VIF, 40001), STALE, 128, None),
    ],
)
def test_signs_of_a_recursion(what, source, target, hops, expected):
    assert dialling(STALE, STALE6).judge(source, target, hops, 0.0) is expected, what


@pytest.mark.parametrize("start", [32, 64, 128, 255])
def test_no_system_begins_near_our_hop_limit(start):
    assert not any(is_marked(start - hops) for hops in range(MOST_HOPS - 1))
    assert all(is_marked(HOP_LIMIT - hops) for hops in range(MOST_HOPS))


def test_a_pod_may_connect_while_nothing_is_dialled():
    assert Loops(RULES).judge(("10.244.1.9", 45123), STALE, 63, 0.0) is None


def test_a_dial_that_has_ended_is_not_in_flight():
    loops, pod = dialling(STALE, STALE), ("10.244.1.9", 1)
    loops.ended(0)
    assert loops.judge(pod, STALE, 63, 0.0) is Sign.FROM_POD
    loops.ended(1)
    loops.ended(1)
    assert loops.judge(pod, STALE, 63, 0.0) is None
    assert loops.in_flight == 0


def test_a_flow_that_is_dialled_again_counts_once():
    loops, pod = dialling(STALE), ("10.244.1.9", 1)
    loops.dialled(0, STALE)
    loops.dialled(0, ("10.96.7.8", 80))
    assert loops.judge(pod, STALE, 63, 0.0) is None
    loops.ended(0)
    assert loops.judge(pod, ("10.96.7.8", 80), 63, 0.0) is None


@pytest.mark.parametrize(
    ("block", "later", "expected"),
    [(0.0, 0.0, None), (5.0, 0.0, Sign.BLOCKED), (5.0, 4.9, Sign.BLOCKED), (5.0, 5.0, None)],
)
def test_a_destination_is_blocked_for_as_long_as_was_configured(block, later, expected):
    loops = dialling(STALE, rules=Rules(block=block))
    assert loops.judge((VIF, 1), STALE, 111, 100.0) is Sign.MARKED
    loops.clear()
    assert loops.judge((VIF, 2), STALE, 64, 100.0 + later) is expected
    assert loops.judge((VIF, 2), ("10.96.7.8", 80), 64, 100.0 + later) is None


def test_who_is_refused_while_blocked_does_not_make_it_longer():
    loops = dialling(STALE, rules=Rules(block=5.0))
    loops.judge((VIF, 1), STALE, 111, 0.0)
    assert loops.judge((VIF, 1), STALE, 111, 4.0) is Sign.BLOCKED
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
            st.tuples(HOSTS, st.just(40001)),
            TARGETS,
            st.integers(60, 64) | st.integers(90, 115),
            st.integers(0, 3),
        ),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 4))
def test_like_a_model_that_remembers_everything(steps, block):
    loops, flights, seen, now = Loops(Rules(pods=PODS, block=float(block))), {}, [], 0
    for step in steps:
        match step:
            case ("dial", flow, target):
                flights[flow] = target
                loops.dialled(flow, target)
            case ("end", flow):
                flights.pop(flow, None)
                loops.ended(flow)
            case ("syn", (host, port), target, hops, passed):
                now += passed
                blocked = any(one == target and now < at + block for one, at in seen)
                recursion = 96 < hops <= 112 or (target in flights.values() and host == "10.244.1.9")
                assert (loops.judge((host, port), target, hops, now) is not None) == (blocked or recursion)
                if recursion and not blocked:
                    seen.append((target, now))
        assert loops.in_flight == len(flights)


@given(
    st.integers(1, 15), st.lists(st.sampled_from([VIF, "10.89.0.2", "10.244.1.9"]), min_size=1, max_size=50)
)
def test_a_loop_dials_once_however_often_it_comes_round(routers, sources):
    """Each round would be a dial of its own if the one before it had been dialled."""
    loops, dials = Loops(RULES), 0
    rounds = [(VIF, 64), *((source, HOP_LIMIT - routers) for source in sources)]
    for flow, (source, hops) in enumerate(rounds):
        if loops.judge((source, 40000 + flow), STALE, hops, 0.0) is None:
            loops.dialled(flow, STALE)
            dials += 1
    assert dials == 1
