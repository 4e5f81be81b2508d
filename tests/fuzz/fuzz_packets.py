"""Throws packets at the VIF's packet path: from both sides, mutated, cut, in fragments, or noise.

    python tests/fuzz/fuzz_packets.py [--inputs 1000000] [--seed 0]

An exception is a finding, and so is a table beyond its bound or an output that is not a proper packet.
State is kept for `LIFE` inputs, so that odd packets meet flows that are there; the seed of such a life is
printed, `--seed N --inputs 1` repeats it whole.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time

from inroad.core import associations, fragments, held
from inroad.core.checksum import checksum, fold, ones_sum, pseudo_sum
from inroad.core.packet import ICMP, ICMPV6, TCP, UDP, Head, parse
from inroad.core.packet_path import DATAGRAM, DROP, ECHO, FORWARD, PacketPath
from inroad.core.redirect import Redirector
from inroad.core.reflect import Plan, Reflector, fast

LIFE = 500
PORT = 15_700
APP = {4: bytes((246, 246, 0, 1)), 6: bytes.fromhex("fd000000000002460000000000000001")}
TARGET = {4: bytes((10, 96, 0, 5)), 6: bytes.fromhex("fd000010009600000000000000000005")}


def ip(dice: random.Random, source: bytes, target: bytes, protocol: int, body: bytes) -> bytes:
    """Return a packet, sometimes with options, extension headers or in a fragment."""
    if len(source) == 16:
        headers = b""
        for kind in dice.choices((0, 43, 44, 60), k=dice.choice((0, 0, 0, 0, 1, 2))):
            if kind == 44:
                field = dice.choice((0, 1, 8, 9, 1280, 65_528))
                headers = struct.pack("!BBHI", protocol, 0, field, dice.randrange(4)) + headers
            else:
                size = dice.choice((0, 0, 1))
                headers = bytes((protocol, size, 0, dice.choice((0, 0, 1)))) + bytes(4 + 8 * size) + headers
            protocol = kind
        return (
            struct.pack("!IHBB", 6 << 28, len(headers + body), protocol, 64)
            + source
            + target
            + headers
            + body
        )
    options = bytes(dice.choice((0, 0, 0, 4, 40)))
    size = 20 + len(options)
    flags = dice.choice((0, 0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1FFF, 0x00B9))
    head = struct.pack(
        "!BBHHHBBH", 0x40 | size // 4, 0, size + len(body), dice.randrange(4), flags, 64, protocol, 0
    )
    whole = head + source + target + options
    return whole[:10] + checksum(whole).to_bytes(2, "big") + whole[12:] + body


def with_sum(pair: bytes, protocol: int, body: bytes, at: int) -> bytes:
    """Fill in a transport checksum."""
    initial = 0 if protocol == ICMP else pseudo_sum(pair, protocol, len(body))
    return body[:at] + checksum(body, initial).to_bytes(2, "big") + body[at + 2 :]


def transport(dice: random.Random, version: int, pair: bytes) -> tuple[int, bytes]:
    """Return a protocol and a body for it."""
    kind = dice.randrange(10)
    ports = struct.pack("!HH", dice.choice((4000, 4001)), dice.choice((80, 53, 137)))
    data = bytes(dice.choice((0, 1, 16, 200)))
    if kind < 5:
        flags = dice.choice((2, 2, 16, 16, 17, 20, 4, 18, 24, dice.randrange(256)))
        body = (
            ports + struct.pack("!IIBBHHH", dice.randrange(3), dice.randrange(3), 0x50, flags, 1, 0, 0) + data
        )
        return TCP, with_sum(pair, TCP, body, 16)
    if kind < 7:
        return UDP, with_sum(pair, UDP, ports + struct.pack("!HH", 8 + len(data), 0) + data, 6)
    if kind < 9:
        protocol = ICMP if version == 4 else ICMPV6
        message = dice.choice((8, 128, 3, 1, 2, 0, 129))
        quote = ip(
            dice, pair[len(pair) // 2 :], pair[: len(pair) // 2], UDP, ports[2:] + ports[:2] + bytes(4)
        )
        word = dice.choice((bytes(4), b"\0\0\5\x14", b"\0\7\0\1"))
        body = bytes((message, dice.choice((0, 3, 4)), 0, 0)) + word + dice.choice((data, quote, quote[:30]))
        return protocol, with_sum(pair, protocol, body, 2)
    return dice.choice((0, 43, 47, 51, 132, 255)), data


class Life:
    """One packet path and the daemon behind it."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.plan = Plan(PORT, one_device=dice.random() < 0.3)
        self.tcp = Redirector({}) if dice.random() < 0.3 else Reflector(self.plan, {})
        self.path = PacketPath(self.tcp, dice.choice((1280, 1500, 65_535)))
        self.now = 0.0
        self.numbers = [1]
        self.datagrams = [associations.FIRST_NUMBER]

    def packet(self) -> bytearray:
        dice = self.dice
        if dice.random() < 0.02:
            return bytearray(dice.randbytes(dice.randrange(120)))
        version = dice.choice((4, 6))
        source, target = APP[version], TARGET[version]
        protocol, body = transport(dice, version, source + target)
        if dice.random() < 0.2:  # from the listener's side
            peer, port = self.plan.peer(version, dice.choice(self.numbers))
            source, target = self.plan.listener(version), peer
            body = PORT.to_bytes(2, "big") + port.to_bytes(2, "big") + body[4:]
        packet = bytearray(ip(dice, source, target, protocol, body))
        if dice.random() < 0.3:
            for _ in range(dice.choice((1, 1, 3))):
                packet[dice.randrange(len(packet))] = dice.choice((0, 1, 0x45, 255, dice.randrange(256)))
        if dice.random() < 0.1:
            del packet[dice.randrange(len(packet)) :]
        return packet

    def step(self) -> None:
        packet = self.packet()
        size, path = len(packet), self.path
        packet += bytes(60)  # as in the loop's buffer, there is always something behind
        view = memoryview(packet)
        from_app = self.dice.random() < 0.85
        ways = self.tcp.app_ways if from_app else self.tcp.listener_ways
        if not fast(ways, view, size) and not (from_app and path.associations.fast(view, size, self.now)):
            action = (path.from_app if from_app else path.from_listener)(packet, size, self.now)
            assert action in (DROP, FORWARD, DATAGRAM, ECHO)
            if action in (DATAGRAM, ECHO):
                table = path.associations
                assert 0 < table.payload_start <= table.payload_end <= len(path.packet)
                self.datagrams.append(path.number)
        self.daemon()
        self.check()

    def daemon(self) -> None:
        dice, path = self.dice, self.path
        self.numbers += [event.number for event in self.tcp.events if not isinstance(event, int)]
        self.tcp.events.clear()
        path.associations.expired.clear()
        number, datagram = dice.choice(self.numbers[-4:]), dice.choice(self.datagrams[-4:])
        fate = dice.random()
        if fate < 0.3:
            self.tcp.verdict(number, dice.choice((0, 0, 0, 1, 2, 3, 4, 5)), self.now)
        elif fate < 0.35:
            self.tcp.accepted(number, self.now)
        elif fate < 0.37:
            self.tcp.abort(number)
        elif fate < 0.45:
            path.associations.datagram(datagram, bytes(dice.choice((0, 1, 1400, 65_487))), self.now)
        elif fate < 0.5:
            path.associations.reply(datagram, 7, bytes(dice.choice((0, 1, 3000))), self.now)
        elif fate < 0.55:
            path.associations.unreachable(datagram, dice.randrange(8))
        self.now += dice.choice((0.0, 0.0, 0.01, 0.3, 3.0, 60.0))
        if dice.random() < 0.3:
            path.tick(self.now)

    def check(self) -> None:
        path = self.path
        assert len(self.tcp) <= held.MAX_FLOWS
        assert len(path.associations) <= associations.MAX_ASSOCIATIONS
        assert path.reassembly._bytes <= fragments.MAX_BYTES
        for packets in (self.tcp.to_app, self.tcp.to_listener):
            for packet in packets:
                proper(packet)
            packets.clear()


def proper(packet: bytes) -> None:
    """Check a packet that we made: lengths, and checksums as its receiver computes them."""
    head = parse(packet, len(packet))
    assert isinstance(head, Head), head
    assert head.end == len(packet) <= 65_575
    if head.fragment is None:
        segment = packet[head.start :]
        initial = 0 if head.protocol == ICMP else pseudo_sum(head.addresses, head.protocol, len(segment))
        assert fold(ones_sum(segment) + initial) == 0xFFFF


def one(seed: int) -> None:
    """Run one life of a packet path."""
    life = Life(seed)
    for _ in range(LIFE):
        life.step()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    lives = -(-options.inputs // LIFE)
    for seed in range(options.seed, options.seed + lives):
        try:
            one(seed)
        except Exception:
            print(f"finding: --seed {seed} --inputs 1", file=sys.stderr)
            raise
    took = time.monotonic() - start
    print(f"packet path: {lives * LIFE} inputs, {took:.0f} s, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
