"""Virtual addresses: handed out, translated back, freed late and reused last."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inroad.core.errors import ConfigInvalid
from inroad.core.host_config import Address
from inroad.core.vnat import LEASE, SAFE_AGE, Moved, PoolEmpty, Target, Vnat

POOLS = (ip_network("246.246.0.0/16"), ip_network("fd00:0:0:246::/64"))
VIF = (ip_address("246.246.0.1"), ip_address("fd00:0:0:246::1"))


def moved(text: str, workload: str = "") -> Moved:
    return Moved(ip_network(text), "test", workload)


def vnat(*entries: Moved) -> Vnat:
    made = Vnat(POOLS, VIF)
    made.move(entries)
    return made


def test_an_address_gets_a_virtual_one_of_its_family_and_keeps_it() -> None:
    mapping = vnat(moved("10.96.0.0/16"), moved("fd00:10:96::/112"))
    four, six = ip_address("10.96.0.5"), ip_address("fd00:10:96::5")
    assert str(mapping.to_virtual(four, 0)) == "246.246.0.2", "246.246.0.1 is the VIF's"
    assert str(mapping.to_virtual(six, 0)) == "fd00:0:0:246::2"
    assert mapping.to_virtual(four, 500) == ip_address("246.246.0.2")
    assert mapping.to_real(ip_address("246.246.0.2")) == Target(four)
    assert mapping.to_virtual(ip_address("10.97.0.5"), 0) == ip_address("10.97.0.5"), "not moved"
    assert mapping.to_real(ip_address("246.246.9.9")) is None
    assert mapping.is_virtual(ip_address("246.246.9.9")) and not mapping.is_virtual(four)


def test_the_longest_prefix_binds_the_workload() -> None:
    mapping = vnat(
        moved("10.0.0.0/8"), moved("10.1.0.0/16", "deploy/web"), moved("127.0.0.1/32", "deploy/mesh")
    )
    got = {text: mapping.to_virtual(ip_address(text), 0) for text in ("10.1.2.3", "10.2.2.3", "127.0.0.1")}
    assert {text: mapping.to_real(virtual) for text, virtual in got.items()} == {
        "10.1.2.3": Target(ip_address("10.1.2.3"), "deploy/web"),
        "10.2.2.3": Target(ip_address("10.2.2.3")),
        "127.0.0.1": Target(ip_address("127.0.0.1"), "deploy/mesh"),
    }
    assert len(set(got.values())) == 3


def test_another_workload_is_another_address_and_old_ones_live_on() -> None:
    mapping = vnat(moved("10.1.0.0/16", "deploy/a"))
    old = mapping.to_virtual(ip_address("10.1.0.1"), 0)
    mapping.move([moved("10.1.0.0/16", "deploy/b")])
    new = mapping.to_virtual(ip_address("10.1.0.1"), 1)
    assert old != new
    assert mapping.to_real(old) == Target(ip_address("10.1.0.1"), "deploy/a")
    mapping.move([])
    assert mapping.to_virtual(ip_address("10.1.0.1"), 2) == ip_address("10.1.0.1")
    assert mapping.to_real(new) == Target(ip_address("10.1.0.1"), "deploy/b")
    assert mapping.subnets() == (POOLS[0],), "still routed for those who have the address"
    mapping.expire(3 + LEASE)
    assert mapping.subnets() == ()


def test_only_families_that_need_it_are_routed() -> None:
    assert vnat().subnets() == ()
    assert vnat(moved("fd00:1::/64")).subnets() == (POOLS[1],)
    with pytest.raises(ConfigInvalid, match="IPv6"):
        Vnat(POOLS[:1]).move([moved("fd00:1::/64")])


def test_it_is_freed_when_nobody_used_it_for_a_lease_and_no_flow_lives() -> None:
    mapping = vnat(moved("10.0.0.0/8"))
    virtual = mapping.to_virtual(ip_address("10.0.0.1"), 0)
    mapping.opened(virtual, 10)
    assert mapping.expire(10 * LEASE) == 0, "a connection may live for days"
    mapping.closed(virtual, 10 * LEASE)
    assert mapping.expire(11 * LEASE - 1) == 0
    assert mapping.expire(11 * LEASE) == 1
    assert mapping.to_real(virtual) is None
    again = mapping.to_virtual(ip_address("10.0.0.2"), 11 * LEASE)
    assert again != virtual, "what an application may still remember is reused last"


def test_a_small_pool_reuses_the_longest_idle_and_never_one_in_use() -> None:
    mapping = Vnat([ip_network("198.18.0.0/29")])  # six addresses
    mapping.move([moved("10.0.0.0/8")])
    first = [mapping.to_virtual(ip_address(f"10.0.0.{number}"), number) for number in range(6)]
    mapping.opened(first[0], 6)
    with pytest.raises(PoolEmpty, match=r"198\.18\.0\.0/29"):
        mapping.to_virtual(ip_address("10.0.1.0"), SAFE_AGE)
    assert mapping.to_virtual(ip_address("10.0.1.0"), SAFE_AGE + 1) == first[1]
    assert mapping.to_real(first[1]) == Target(ip_address("10.0.1.0"))
    assert mapping.to_real(first[0]) == Target(ip_address("10.0.0.0"))
    assert mapping.to_virtual(ip_address("10.0.0.1"), SAFE_AGE + 2) == first[2]


class Model(RuleBasedStateMachine):
    """A pool of 14 addresses, an application that remembers, and a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.vnat = Vnat([ip_network("198.18.0.0/28")], [ip_address("198.18.0.7")])
        self.vnat.move([moved("10.0.0.0/24")])
        self.now = 0.0
        self.meaning: dict[Address, Address] = {}
        self.used: dict[Address, float] = {}
        self.flows: dict[Address, int] = {}

    @rule(number=st.integers(0, 30))
    def ask(self, number: int) -> None:
        real = ip_address(f"10.0.0.{number}")
        try:
            virtual = self.vnat.to_virtual(real, self.now)
        except PoolEmpty:
            safe = [v for v in self.meaning if self.flows.get(v) or self.used[v] > self.now - SAFE_AGE]
            assert len(self.meaning) == 13 and any(safe)
            assert real not in self.meaning.values()
            return
        before = self.meaning.get(virtual)
        if before is not None and before != real:
            assert not self.flows.get(virtual), "an address with flows got another meaning"
            assert self.used[virtual] <= self.now - SAFE_AGE, "an address got another meaning too soon"
        self.meaning[virtual] = real
        self.used[virtual] = self.now

    @precondition(lambda self: self.meaning)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        virtual = data.draw(st.sampled_from(sorted(self.meaning)))
        self.vnat.opened(virtual, self.now)
        self.flows[virtual] = self.flows.get(virtual, 0) + 1
        self.used[virtual] = self.now

    @precondition(lambda self: any(self.flows.values()))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        virtual = data.draw(st.sampled_from(sorted(v for v, count in self.flows.items() if count)))
        self.vnat.closed(virtual, self.now)
        self.flows[virtual] -= 1
        self.used[virtual] = self.now

    @rule(seconds=st.sampled_from([0.5, 30.0, 61.0, LEASE / 2, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        old = [v for v in self.meaning if not self.flows.get(v) and self.used[v] <= self.now - LEASE]
        assert self.vnat.expire(self.now) == len(old)
        for virtual in old:
            del self.meaning[virtual]

    @invariant()
    def agrees(self) -> None:
        leases = {lease.virtual: lease.target.address for lease in self.vnat.leases()}
        assert leases == self.meaning
        assert len(set(leases.values())) == len(leases)
        assert ip_address("198.18.0.7") not in leases


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestModel = Model.TestCase
