"""ICMP errors about TCP packets of ours, taken to whom they concern.

The workstation, or a router behind it, says of a packet on its way to the application that it was too big
or that nobody was reached. The kernel that sent the packet is the listener's, which knows the connection by
other addresses: those in the quoted headers are put back to what it sent (as RFC 5508 has it for NATs), or
it would never learn of a narrow path and send into a black hole.
"""

from __future__ import annotations

from struct import Struct

from inroad.core.checksum import Buffer, checksum, difference, fold, ones_sum, patch, pseudo_sum
from inroad.core.packet import ADDRESSES_AT, ICMP, ICMPV6, TCP, Head, ip_header, turned

KINDS = {4: frozenset((3, 11, 12)), 6: frozenset((1, 2, 3, 4))}
"""Unreachable (with "fragmentation needed"), time exceeded, parameter problem; in IPv6 also too big.

Redirects and source quench are for hosts and for nobody (RFC 6633)."""

_PORTS_AND_SEQUENCE, _CHECKSUM_END = 8, 18
_PROTOCOL_AT = {4: 9, 6: 6}
_WORD = Struct("!H")


def quoted_key(packet: Buffer, head: Head) -> bytes | None:
    """Return addresses and ports of the TCP packet that an ICMP error quotes, as that packet had them.

    None for what is no error, quotes something else or too little, or has a wrong checksum.
    """
    start, version = head.start, head.version
    if head.end - start < 8 or packet[start] not in KINDS[version]:
        return None
    message = packet[start : head.end]
    initial = pseudo_sum(head.addresses, ICMPV6, len(message)) if version == 6 else 0
    if fold(ones_sum(message) + initial) != 0xFFFF:
        return None
    quote = message[8:]
    if not quote or quote[0] >> 4 != version:
        return None
    at, size = (quote[0] & 15) * 4 if version == 4 else 40, 8 if version == 4 else 32
    if at < ADDRESSES_AT[version] + size or len(quote) < at + _PORTS_AND_SEQUENCE:
        return None
    # Extension headers of IPv6 are nothing that the listener's kernel sends.
    if quote[_PROTOCOL_AT[version]] != TCP or (version == 4 and _WORD.unpack_from(quote, 6)[0] & 0x1FFF):
        return None
    addresses = ADDRESSES_AT[version]
    return bytes(quote[addresses : addresses + size]) + bytes(quote[at : at + 4])


def translated(packet: Buffer, head: Head, key: bytes) -> bytes:
    """Return the error for the kernel whose packets carry `key` (addresses and ports), which quotes that.

    It comes from where the quoted packet went, which is routed wherever the packet was. For packets that
    `quoted_key` has looked at.
    """
    version, half = head.version, len(key) // 2 - 2
    message = bytearray(packet[head.start : head.end])
    quote = memoryview(message)[8:]
    at, addresses = (quote[0] & 15) * 4 if version == 4 else 40, ADDRESSES_AT[version]
    change = difference(bytes(quote[addresses : addresses + 2 * half]) + bytes(quote[at : at + 4]), key)
    quote[addresses : addresses + 2 * half] = key[:-4]
    quote[at : at + 4] = key[-4:]
    if len(quote) >= at + _CHECKSUM_END:
        field = quote[at + _CHECKSUM_END - 2 : at + _CHECKSUM_END]
        _WORD.pack_into(field, 0, patch(_WORD.unpack(field)[0], change))
    if version == 4:
        quote[10:12] = b"\0\0"
        quote[10:12] = checksum(quote[:at]).to_bytes(2, "big")
    back = turned(key[:-4])
    message[2:4] = b"\0\0"
    initial = pseudo_sum(back, ICMPV6, len(message)) if version == 6 else 0
    message[2:4] = checksum(message, initial).to_bytes(2, "big")
    return ip_header(back, ICMP if version == 4 else ICMPV6, len(message)) + bytes(message)
