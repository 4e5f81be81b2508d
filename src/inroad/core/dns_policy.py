"""Which names go to the cluster: the ordered rules, as one pure function that names its reason.

The first rule that applies decides. "Fallback" means the name servers that the workstation had before;
a name that the cluster denies may still be theirs (`Decision.fallback`), because a namespace `dev`
must not break `shopify.dev`. Names of the cluster domain and of `svc` never leave for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address

from inroad.core import names
from inroad.core.dns_wire import Type
from inroad.core.host_config import Address, Network
from inroad.core.names import Name

DEFAULT_EXCLUDE_SUFFIXES = (".arpa", ".com", ".io", ".net", ".org", ".ru")
LOCALHOST = (b"localhost",)
SVC = (b"svc",)
SELF_CHECK = b"inroad-check"
"""Second label of the names that we look up through the host to see whether they arrive at our server."""


class Action(Enum):
    """What is done about a query."""

    ADDRESSES = "addresses"  # answered here: `Decision.addresses`, NODATA for the other family
    POINTER = "pointer"  # answered here: a PTR to `Decision.target`
    ALIAS = "alias"  # a CNAME to `Decision.target`, and what that resolves to
    CLUSTER = "cluster"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a query and the rule that says so.

    `namespace` and `absolute` are for the cluster side: expand with the search list of a pod in that
    namespace, or send the name as it is. `also`: namespaces to try after that one. `fallback`: a name that
    the cluster denies is asked of the fallback. `external`: the bare name means something to the cluster's
    own name server.
    """

    action: Action
    rule: str
    namespace: str = ""
    also: tuple[str, ...] = ()
    absolute: bool = False
    fallback: bool = False
    external: bool = False
    addresses: tuple[Address, ...] = ()
    target: Name = ()


@dataclass(frozen=True)
class DnsPolicy:
    """The values that decide, as configuration and cluster give them.

    `attached`: namespaces that single labels are searched in after `namespace`. `mapped_namespaces`: whose
    services are names here. `routed_subnets`: whose addresses have their
    PTR in the cluster. A suffix with a leading dot matches below it only, one without matches itself
    too. `mappings`: pairs of a name and an address or another name. `search`: the workstation's own
    search domains. `own_addresses`: where our DNS server listens. `lookup_timeout` in ms.
    Building the lists raises `names.BadName` at first use; `check` does so at once.
    """

    namespace: str = "default"
    attached: tuple[str, ...] = ()
    mapped_namespaces: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    routed_subnets: tuple[Network, ...] = ()
    include_suffixes: tuple[str, ...] = ()
    exclude_suffixes: tuple[str, ...] = DEFAULT_EXCLUDE_SUFFIXES
    excludes: tuple[str, ...] = ()
    mappings: tuple[tuple[str, str], ...] = ()
    search: tuple[str, ...] = ()
    own_addresses: tuple[Address, ...] = ()
    lookup_timeout: int = 4_000
    recursion_check: bool = True

    def check(self) -> None:
        """Raise `names.BadName` if a name or suffix is none."""
        _ = self.domain, self.namespaces, self.included, self.excluded, self.excluded_names, self.mapped
        _ = self.appended

    @cached_property
    def domain(self) -> Name:
        """The cluster domain."""
        return names.parse(self.cluster_domain)

    @cached_property
    def namespaces(self) -> frozenset[bytes]:
        """Last labels that are namespaces; the connected one and those of attachments always are."""
        found = (*self.mapped_namespaces, self.namespace, *self.attached)
        return frozenset(names.parse(namespace)[-1] for namespace in found)

    @cached_property
    def included(self) -> _Suffixes:
        """Suffixes whose names go to the cluster."""
        return _Suffixes.of(self.include_suffixes)

    @cached_property
    def excluded(self) -> _Suffixes:
        """Suffixes whose names do not."""
        return _Suffixes.of(self.exclude_suffixes)

    @cached_property
    def excluded_names(self) -> frozenset[Name]:
        """Names that never go to the cluster."""
        return frozenset(map(names.parse, self.excludes))

    @cached_property
    def appended(self) -> tuple[Name, ...]:
        """What the workstation's resolver may have appended to the name that the user typed."""
        return tuple(filter(None, map(names.parse, (*self.search, self.namespace, *self.attached))))

    @cached_property
    def mapped(self) -> dict[Name, tuple[tuple[Address, ...], Name]]:
        """Mappings by name: the addresses, or the name that is meant."""
        table: dict[Name, tuple[tuple[Address, ...], Name]] = {}
        for name, alias in self.mappings:
            key = names.parse(name)
            try:
                address = ip_address(alias)
            except ValueError:
                table[key] = ((), names.parse(alias))
            else:
                table[key] = ((*table.get(key, ((), ()))[0], address), ())
        return table

    @cached_property
    def reverse(self) -> dict[tuple[int, int], frozenset[int]]:
        """Routed subnets by (version, prefix length): their addresses' leading bits."""
        table: dict[tuple[int, int], set[int]] = {}
        for subnet in self.routed_subnets:
            bits = int(subnet.network_address) >> (subnet.max_prefixlen - subnet.prefixlen)
            table.setdefault((subnet.version, subnet.prefixlen), set()).add(bits)
        return {key: frozenset(values) for key, values in table.items()}

    def routes(self, address: Address) -> bool:
        """Tell whether the address lies in a routed subnet."""
        value = int(address)
        return any(
            version == address.version and value >> (address.max_prefixlen - length) in bits
            for (version, length), bits in self.reverse.items()
        )


@dataclass(frozen=True, slots=True)
class _Suffixes:
    """A suffix list: those that match themselves too, and those that match names below them only."""

    at: frozenset[Name]
    below: frozenset[Name]

    @classmethod
    def of(cls, texts: tuple[str, ...]) -> _Suffixes:
        return cls(
            frozenset(names.parse(text) for text in texts if not text.strip().startswith(".")),
            frozenset(names.parse(text) for text in texts if text.strip().startswith(".")),
        )

    def longest(self, name: Name) -> int:
        """Return how many labels the longest matching suffix has, -1 if none matches."""
        at = names.longest_suffix(name, self.at)
        below = names.longest_suffix(name[1:], self.below) if name else None
        return max(-1 if at is None else len(at), -1 if below is None else len(below))


def decide(policy: DnsPolicy, name: Name, kind: int) -> Decision:
    """Say what becomes of a query for `name` of record type `kind`, by the first rule that applies."""
    return (
        _local(policy, name, kind)
        or _never(policy, name)
        or _mapping(policy, name)
        or _reverse(policy, name)
        or _suffix(policy, name)
        or _cluster(policy, name)
        or _FALLBACK
    )


_FALLBACK = Decision(Action.FALLBACK, "other")
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def _local(policy: DnsPolicy, name: Name, kind: int) -> Decision | None:
    if name[-1:] == LOCALHOST:
        return Decision(Action.ADDRESSES, "localhost", addresses=_LOOPBACK)
    if kind == Type.PTR and policy.own_addresses and reverse_address(name) in policy.own_addresses:
        # Some clients ask for the name of their server before they ask anything else of it.
        return Decision(Action.POINTER, "own-address", target=(b"inroad-dns", *policy.domain))
    if len(name) > 2 and name[1] == SELF_CHECK:
        return Decision(Action.ADDRESSES, "self-check", addresses=policy.own_addresses)
    return None


def _never(policy: DnsPolicy, name: Name) -> Decision | None:
    if name[:1] == (b"wpad",):
        return Decision(Action.FALLBACK, "wpad")
    if any(name[i : i + 2] == (b"_dns-sd", b"_udp") for i in range(len(name) - 1)):
        return Decision(Action.FALLBACK, "dns-sd")
    if policy.excluded_names and not policy.excluded_names.isdisjoint(_as_typed(policy, name)):
        return Decision(Action.FALLBACK, "excludes")
    return None


def _as_typed(policy: DnsPolicy, name: Name) -> list[Name]:
    """The name, and what it was if the host's resolver appended a search domain to it."""
    typed = [name]
    typed += [
        name[: -len(end)] for end in policy.appended if len(name) > len(end) and names.ends_with(name, end)
    ]
    return typed


def _mapping(policy: DnsPolicy, name: Name) -> Decision | None:
    if not policy.mapped:
        return None
    for typed in _as_typed(policy, name):
        # A single label reaches us with the connected namespace behind it where that is searched.
        found = policy.mapped.get(typed) if typed == name or len(typed) == 1 else None
        if found is not None:
            addresses, target = found
            if addresses:
                return Decision(Action.ADDRESSES, "mappings", addresses=addresses)
            return Decision(Action.ALIAS, "mappings", target=target)
    return None


def _reverse(policy: DnsPolicy, name: Name) -> Decision | None:
    if name[-1:] != (b"arpa",) or not policy.routed_subnets:
        return None
    address = reverse_address(name)
    if address is not None and policy.routes(address):
        return Decision(Action.CLUSTER, "reverse", absolute=True, fallback=True)
    return None


def _suffix(policy: DnsPolicy, name: Name) -> Decision | None:
    include, exclude = policy.included.longest(name), policy.excluded.longest(name)
    if names.ends_with(name, policy.domain) and len(policy.domain) > exclude:
        return None
    if include >= 0 and include >= exclude:
        return Decision(Action.CLUSTER, "include-suffix", policy.namespace, fallback=True, external=True)
    if exclude >= 0:
        return Decision(Action.FALLBACK, "exclude-suffix")
    # The host's resolver appends the namespace to names that it could not find, such as xyz.com.
    if any(len(typed) > 1 and policy.excluded.longest(typed) >= 0 for typed in _as_typed(policy, name)[1:]):
        return Decision(Action.FALLBACK, "exclude-suffix")
    return None


def _cluster(policy: DnsPolicy, name: Name) -> Decision | None:
    if policy.domain and names.ends_with(name, policy.domain):
        return Decision(Action.CLUSTER, "cluster-domain", absolute=True)
    if name[-1:] == SVC:
        return Decision(Action.CLUSTER, "svc", policy.namespace)
    if len(name) > 1 and name[-1] in policy.namespaces:
        return Decision(Action.CLUSTER, "namespace", policy.namespace, fallback=True)
    if len(name) == 1:
        return Decision(Action.CLUSTER, "single-label", policy.namespace, policy.attached, fallback=True)
    return None


def reverse_address(name: Name) -> Address | None:
    """Return the address whose PTR has this name, None where it is no complete reverse name."""
    if name[-2:] == (b"in-addr", b"arpa") and len(name) == 6:
        parts = name[3::-1]
        if all(part.isdigit() and len(part) <= 3 and int(part) <= 255 for part in parts):
            return IPv4Address(bytes(map(int, parts)))
    if name[-2:] == (b"ip6", b"arpa") and len(name) == 34:
        digits = b"".join(name[31::-1])
        if len(digits) == 32 and not digits.strip(b"0123456789abcdef"):
            return IPv6Address(int(digits, 16))
    return None


def services_of(name: Name, namespace: str, domain: Name) -> frozenset[str]:
    """Return the services, as `service.namespace`, whose change may change the answer for `name`.

    A pod's resolver may have read `web.shop` as service `web` of namespace `shop`, or as host `web` of
    service `shop` in its own namespace: both count.
    """
    if domain and names.ends_with(name, domain):
        name = name[: -len(domain)]
    elif namespace and name[-1:] != SVC:
        own = (*name, namespace.encode())
        return frozenset(_service(candidate) for candidate in (own, name) if len(candidate) > 1)
    if name[-1:] == SVC:
        name = name[:-1]
    return frozenset((_service(name),)) if len(name) > 1 else frozenset()


def _service(name: Name) -> str:
    return b".".join(name[-2:]).decode(errors="replace")
