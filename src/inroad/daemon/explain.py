"""`GET /v1/explain`: what the session knows and its own DNS server answers, for `core/explain` to judge."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from inroad.core import explain as core
from inroad.core.host_config import Address
from inroad.core.names import Name
from inroad.core.status import Explanation, NamePath, PacketPath
from inroad.core.vnat import Target
from inroad.daemon.cluster_view import workload

if TYPE_CHECKING:
    from inroad.daemon.session import Session
from inroad.host.routes.choose import ROUTES_IN

PATIENCE = 10.0
"""Seconds for our own DNS server; it answers within its own deadlines."""


async def explain(session: Session, what: str) -> Explanation:
    """Return the path of a name with all its addresses, or of one address; raises `ConfigInvalid`."""
    asked = core.read(what)
    known = await _known(session)
    if isinstance(asked, IPv4Address | IPv6Address):
        return Explanation(what, None, [_path(session, known, asked)])
    name = core.name_path(known, asked)
    await _resolve(session, asked, name)
    return Explanation(what, name, [_path(session, known, one) for one in core.unique(name.addresses)])


async def _known(session: Session) -> core.Session:
    origins = session.cluster.origins
    return core.Session(
        policy=session.dns.policy,
        routing=session.cluster.routing,
        routes=await session.host.routes.host_routes(),
        interface=session.vif_config.name,
        own=session.vif_config.addresses,
        manager=session.manager.pod,
        agents=origins.agents,
        wishes=origins.wishes,
        fallback=tuple(host for host, _ in session.host.fallback),
        table=ROUTES_IN,
        paths={agent.id: session.direct.path(agent.id) for agent in origins.agents},
    )


def _path(session: Session, known: core.Session, address: Address) -> PacketPath:
    """Find out as a dial would, without counting as one: a virtual address is not kept by asking."""
    vnat = session.virtual.vnat
    real = vnat.to_real(address) if vnat.is_virtual(address) else Target(address)
    if real is None or not real.workload:
        return core.packet_path(known, address, real)
    return core.packet_path(known, address, real, workload(real.workload, session.cluster.namespace))


async def _resolve(session: Session, name: Name, path: NamePath) -> None:
    """Ask our DNS server as a program would, for both families; fill in what it said."""
    server = session.dns.addresses[0]
    asked = dns.name.Name((*name, b""))
    kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
    try:
        replies = await asyncio.gather(*(_ask(server, asked, kind) for kind in kinds))
    except (OSError, EOFError, dns.exception.DNSException) as error:
        path.result = f"no answer from inroad's DNS server: {error}"
        return
    for reply in replies:
        for rrset in reply.answer:
            if rrset.rdtype in kinds:
                path.canonical = rrset.name.to_text(omit_final_dot=True)
                path.addresses += [str(rdata) for rdata in rrset]
    codes = {reply.rcode() for reply in replies}
    if path.addresses:
        path.result = "answered"
    elif codes == {dns.rcode.NXDOMAIN}:
        path.result = "there is no such name"
    elif codes <= {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        path.result = "the name exists, but has no addresses"
    else:
        path.result = f"the lookup failed: {', '.join(sorted(map(dns.rcode.to_text, codes)))}"


async def _ask(
    server: tuple[str, int], name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return await dns.asyncquery.tcp(query, server[0], PATIENCE, server[1])
