"""Virtual addresses in answers, dials and reverse lookups, around a cluster of a few names."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import dns.message
import dns.reversename
import dns.rrset

from inroad.core.dns_cache import MAX_LIFE
from inroad.core.messages import LookupReply
from inroad.core.vnat import LEASE, SAFE_AGE, Moved
from inroad.daemon.virtual import VirtualAddresses

POOLS = (ip_network("246.246.0.0/16"), ip_network("fd00:0:0:246::/64"))
OWN = (ip_address("246.246.0.1"),)
NAMES = {
    ("web.", "A"): ["10.96.0.5", "192.168.9.9"],
    ("web.", "AAAA"): ["fd00:10:96::5"],
    ("5.0.96.10.in-addr.arpa.", "PTR"): ["web.shop.svc.cluster.local."],
}


async def cluster(query, *, namespace, deadline_ms, absolute, bare=True):
    del namespace, deadline_ms, absolute, bare
    message = dns.message.from_wire(query)
    response = dns.message.make_response(message)
    question = message.question[0]
    key = (question.name.to_text(), question.rdtype.name)
    if key in NAMES:
        response.answer.append(dns.rrset.from_text(question.name, 30, "IN", key[1], *NAMES[key]))
    return LookupReply(1, response.to_wire(), key[0])


async def ask(virtual, name, kind):
    query = dns.message.make_query(name, kind)
    reply = await virtual.lookup(query.to_wire(), namespace="shop", deadline_ms=1000, absolute=False)
    message = dns.message.from_wire(reply.reply)
    assert message.question == query.question
    # the virtual ones first: dnspython shuffles what it writes
    return sorted((rdata.to_text() for rrset in message.answer for rdata in rrset), key=by_pool)


def by_pool(text):
    return (not text.startswith(("246.246.", "fd00:0:0:246:", "10.")), text)


def moved(*subnets, workload=""):
    return tuple(Moved(ip_network(subnet), "a test", workload) for subnet in subnets)


async def test_without_moved_subnets_answers_pass_untouched():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    assert await ask(virtual, "web", "A") == ["10.96.0.5", "192.168.9.9"]
    assert str(virtual.real("10.96.0.5").address) == "10.96.0.5"


async def test_a_moved_address_is_virtual_in_answers_and_real_in_dials():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    assert virtual.move(moved("10.96.0.0/16", "fd00:10:96::/112"))
    first, other = await ask(virtual, "web", "A")
    assert other == "192.168.9.9"
    assert ip_address(first) in POOLS[0]
    assert first != "246.246.0.1"
    assert str(virtual.real(first).address) == "10.96.0.5"
    (six,) = await ask(virtual, "web", "AAAA")
    assert ip_address(six) in POOLS[1]
    assert str(virtual.real(six).address) == "fd00:10:96::5"
    assert await ask(virtual, "web", "A") == [first, other]


async def test_the_reverse_of_a_virtual_address_is_the_name_behind_it():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    virtual.move(moved("10.96.0.0/16"))
    first, _ = await ask(virtual, "web", "A")
    assert await ask(virtual, dns.reversename.from_address(first), "PTR") == ["web.shop.svc.cluster.local."]


def test_a_virtual_address_without_meaning_leads_nowhere():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    assert virtual.real("246.246.7.7") is None


async def test_a_bound_subnet_names_its_workload():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    virtual.move(moved("10.96.0.0/16", workload="deploy/web"))
    first, _ = await ask(virtual, "web", "A")
    assert virtual.real(first).workload == "deploy/web"
    assert not virtual.move(moved("10.96.0.0/16", workload="deploy/web"))


async def test_a_virtual_address_keeps_its_meaning_while_a_flow_lives():
    virtual = VirtualAddresses(cluster, POOLS, OWN)
    virtual.move(moved("10.96.0.0/16"))
    first, other = await ask(virtual, "web", "A")
    virtual.begun(1, first)
    virtual.begun(2, first)
    virtual.begun(3, other)
    virtual.over(2)
    virtual.over(2)
    virtual.over(3)
    (lease,) = virtual.vnat.leases()
    assert lease.flows == 1
    assert virtual.vnat.expire(lease.used + LEASE + 1) == 0
    virtual.over(1)
    assert virtual.vnat.expire(lease.used + LEASE + 1) == 1
    assert virtual.real(first) is None


def test_an_answer_that_we_still_give_is_no_other_targets():
    """Our own cache answers without asking for the virtual address again."""
    assert SAFE_AGE >= 2 * MAX_LIFE
    assert LEASE > SAFE_AGE
