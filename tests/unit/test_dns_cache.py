"""The DNS cache read as a conversation: what is stored when, and what is said later."""

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core import dns_answer
from inroad.core.dns_answer import Answer
from inroad.core.dns_cache import DnsCache, Entry
from inroad.core.dns_policy import Action, Decision
from inroad.core.dns_wire import Query, Rcode, Type, parse_query

CLUSTER = Decision(Action.CLUSTER, "single-label", "shop", fallback=True)
ABSOLUTE = Decision(Action.CLUSTER, "cluster-domain", absolute=True)


def query(name="web", kind="A", **more) -> Query:
    return parse_query(dns.message.make_query(name, kind, **more).to_wire())


def addresses(*last: int, ttl: int = 30) -> Answer:
    return dns_answer.of_records(Type.A, tuple(bytes((10, 0, 0, number)) for number in last), ttl)


def denial(rcode: int, lifetime: int) -> Answer:
    answer = dns_answer.negative(rcode)
    answer.lifetime = lifetime
    return answer


def put(cache, name="web", answer=None, now=0.0, *, decision=CLUSTER, services=("web.shop",), asked=None):
    key = query(name).key
    return cache.store(
        key, answer or addresses(1), decision, frozenset(services), now, now if asked is None else asked
    )


def same():
    return CLUSTER


def alive(cache, now, name="web", decide=same) -> bool:
    return cache.find(query(name).key, now, decide) is not None


@pytest.mark.parametrize(
    ("answer", "life"),
    [
        (addresses(1, ttl=30), 30),
        (addresses(1, ttl=300), 60),  # 60 s at most
        (addresses(1, ttl=1), 4),  # the wire TTL at least
        (addresses(1, ttl=0), 4),
        (denial(Rcode.NXDOMAIN, 3), 3),
        (denial(Rcode.NXDOMAIN, 300), 5),
        (denial(Rcode.NOERROR, 300), 5),
        (denial(Rcode.NXDOMAIN, 0), 0),  # without a SOA nobody says how long (RFC 2308, 5)
        (denial(Rcode.SERVFAIL, 0), 1),
        (denial(Rcode.REFUSED, 300), 1),
    ],
)
def test_how_long_answers_live(answer, life):
    cache = DnsCache()
    put(cache, answer=answer, now=100.0)
    if life:
        assert alive(cache, 100.0 + life - 0.01)
    assert not alive(cache, 100.0 + life)


def test_types_and_the_wish_for_dnssec_are_different_questions():
    cache = DnsCache()
    put(cache)
    for other in (
        query("web", "AAAA"),
        query("web", "A", want_dnssec=True),
        query("webb"),
        query("web.shop"),
    ):
        assert cache.find(other.key, 1.0, same) is None
    assert cache.find(query("WEB", "A").key, 1.0, same) is not None


def test_the_least_recently_used_goes_first():
    cache = DnsCache(capacity=3)
    for name in ("a", "b", "c"):
        put(cache, name)
    assert alive(cache, 1.0, "a")
    put(cache, "d", now=2.0)
    assert [name for name in "abcd" if alive(cache, 3.0, name)] == ["a", "c", "d"]
    assert cache.counters.evicted == 1
    assert len(cache) == 3


def test_a_popular_answer_is_refreshed_ahead_and_a_rare_one_is_not():
    cache = DnsCache()
    put(cache, "often", addresses(1, ttl=50))
    put(cache, "rarely", addresses(1, ttl=50))
    found = [cache.find(query("often").key, at, same) for at in (1.0, 2.0, 3.0, 44.9, 45.1)]
    assert [hit.refresh for hit in found] == [False, False, False, False, True]
    assert not cache.find(query("rarely").key, 49.5, same).refresh


def test_stale_answers_last_an_hour_and_denials_do_not():
    cache = DnsCache()
    put(cache, "web", addresses(1, ttl=30))
    put(cache, "gone", denial(Rcode.NXDOMAIN, 5))
    assert cache.find_stale(query("web").key, 3629.0, same) is not None
    assert cache.find_stale(query("web").key, 3630.0, same) is None
    assert cache.find_stale(query("gone").key, 6.0, same) is None


def test_a_change_of_policy_drops_what_it_affects_and_nothing_else():
    cache = DnsCache()
    put(cache, "web")
    put(cache, "web.shop.svc.cluster.local", decision=ABSOLUTE)
    cache.policy_changed()
    other = Decision(Action.CLUSTER, "single-label", "default", fallback=True)
    assert not alive(cache, 1.0, "web", lambda: other)
    assert not alive(cache, 1.0, "web", same)  # it is gone, not hidden
    assert alive(cache, 1.0, "web.shop.svc.cluster.local", lambda: ABSOLUTE)


def test_a_changed_service_takes_its_answers_along():
    cache = DnsCache()
    put(cache, "web", services=("web.shop",), now=1.0)
    put(cache, "ext", services=("ext.shop", "web.shop"), now=1.0)
    put(cache, "db", services=("db.shop",), now=1.0)
    cache.invalidate(("web.shop", "unknown.shop"), 2.0)
    assert [name for name in ("web", "ext", "db") if alive(cache, 3.0, name)] == ["db"]
    assert cache.find_stale(query("web").key, 3.0, same) is None
    put(cache, "web", services=("web.shop",), now=4.0, asked=3.0)
    assert alive(cache, 5.0, "web")


def test_an_answer_asked_for_before_the_change_is_not_believed_after_it():
    cache = DnsCache()
    cache.invalidate(("web.shop",), 2.0)
    put(cache, "web", services=("web.shop",), asked=1.9, now=2.1)
    assert not alive(cache, 2.2, "web")


def test_a_flood_of_changes_flushes_instead_of_growing():
    cache = DnsCache()
    put(cache, "db", services=("db.shop",))
    cache.invalidate(tuple(f"s{i}.shop" for i in range(20_001)), 1.0)
    assert len(cache) == 0
    assert not alive(cache, 2.0, "db")


def remembered(cache, asked, name="web", answer=None, now=0.0):
    entry = put(cache, name, answer, now)
    reply = cache.reply(asked, entry, now, recursion=False, limit=512)
    cache.remember(asked, entry, reply, now, [0])
    return reply


def test_the_same_bytes_get_the_same_bytes_for_a_second():
    cache = DnsCache()
    asked = query("web", id=1)
    reply = remembered(cache, asked)
    again = query("web", id=2)
    hit = cache.recent[again.data[2:]]
    assert hit.reply == reply[2:]
    assert hit.until == 1.0
    assert query("wEb", id=2).data[2:] not in cache.recent


@pytest.mark.parametrize("change", ["policy_changed", "flush"])
def test_recent_replies_go_with_every_change(change):
    cache = DnsCache()
    remembered(cache, query())
    getattr(cache, change)()
    assert not cache.recent
    remembered(cache, query())
    cache.invalidate(("other.shop",), 1.0)
    assert not cache.recent


def test_a_recent_reply_does_not_outlive_its_entry():
    cache = DnsCache()
    entry = put(cache, answer=denial(Rcode.SERVFAIL, 0), now=10.0)
    cache.remember(query(), entry, b"xx", 10.7, [0])
    assert cache.recent[query().data[2:]].until == 11.0


def test_ttls_count_down_in_replies():
    cache = DnsCache()
    entry = put(cache, answer=addresses(1, ttl=30), now=0.0)
    seen = []
    for now in (0.0, 25.0, 27.5, 29.9):
        reply = dns.message.from_wire(cache.reply(query(), entry, now, recursion=False, limit=512))
        seen.append(reply.answer[0].ttl)
    assert seen == [4, 4, 3, 1]
    stale = dns.message.from_wire(cache.stale_reply(query(), entry, recursion=False, limit=512))
    assert stale.answer[0].ttl == 1


entries = st.builds(
    Entry,
    st.builds(
        Answer,
        st.integers(0, 4095),
        st.binary(min_size=8, max_size=8),
        st.binary(max_size=300),
        st.lists(st.integers(0, 65_535), max_size=5).map(tuple),
        st.integers(0, 2**31 - 1),
        st.booleans(),
    ),
    st.just(CLUSTER),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
)


@given(entries)
def test_packed_entries_are_read_back(entry):
    assert Entry.unpack(entry.pack(1), [ABSOLUTE, CLUSTER]) == entry


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60), st.integers(1, 4))
def test_eviction_is_that_of_an_obvious_lru(steps, capacity):
    cache, reference = DnsCache(capacity=capacity), []
    for name, store in steps:
        if store:
            put(cache, name)
            reference = [other for other in reference if other != name] + [name]
            reference = reference[-capacity:]
        elif alive(cache, 1.0, name):
            reference = [other for other in reference if other != name] + [name]
        assert {other for other in "abcde" if query(other).key in cache._packed} == set(reference)
