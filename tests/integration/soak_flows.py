"""The near end of a soak, on the connected workstation: random kinds of flows, every byte of them checked.

    python soak_flows.py SERVICE POD SECONDS SEED [KIND...]

Prints a JSON line every ten seconds and one at the end: flows by kind, bytes, failures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable, Coroutine

from soak_data import CLOSED, PORT, digest, stream

AT_ONCE = 24
PATIENCE = 60.0
"""Seconds that any one flow may take."""

STALLED = 64 << 20
"""Bytes that a target which does not read may make the whole chain hold."""

FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Wrong(Exception):
    """A flow did something else than it would have done on a cable."""


def expect(truth: object, text: str) -> None:
    """Raise `Wrong` with the text when it is not so."""
    if not truth:
        raise Wrong(text)


class Flows:
    """What the flows of one run have in common."""

    def __init__(self, host: str, pod: str, seed: int) -> None:
        self.host = host
        self.pod = pod
        self.random = random.Random(seed)
        self.kinds: Counter[str] = Counter()
        self.bytes = 0
        self.unanswered = 0
        self.told_unreachable = 0
        self.failures: list[str] = []

    def size(self, most: float = 7.0) -> int:
        """Return a random size from 1 byte to 10 to the power of `most`, small as often as large."""
        return int(10 ** self.random.uniform(0, most))

    async def open(self, verb: str, seed: int, size: int = 0) -> tuple[StreamReader, StreamWriter]:
        """Connect over IPv4 or IPv6 and say what the peer is to do."""
        family = self.random.choice(FAMILIES)
        reader, writer = await asyncio.open_connection(self.host, PORT, family=family)
        writer.write(f"{verb} {seed} {size}\n".encode())
        return reader, writer

    async def ask(self, seed: int) -> str:
        """Ask the peer how a connection ended."""
        reader, writer = await self.open("fate", seed)
        found = (await reader.read()).decode()
        writer.close()
        return found

    async def fate(self, seed: int, *wanted: str) -> None:
        """Wait until the peer has seen the end of a connection: one of `wanted`."""
        while (found := await self.ask(seed)) in {"open", "asked"}:
            await asyncio.sleep(0.1)
        expect(found in wanted, f"the peer saw {found}, not {' or '.join(wanted)}")


def reset(writer: StreamWriter) -> None:
    """Close with a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def upload(flows: Flows, seed: int) -> None:
    """Send a stream and half-close; the peer's digest comes back."""
    size = flows.size()
    reader, writer = await flows.open("sink", seed)
    for piece in stream(seed, size):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
    answer = (await reader.read()).decode()
    writer.close()
    expect(answer == digest(seed, size), f"of {size} bytes sent, others arrived")
    flows.bytes += size


async def download(flows: Flows, seed: int) -> None:
    """Read a stream to its end, in pieces of any size, sometimes slowly."""
    size = flows.size()
    slow = flows.random.random() < 0.2
    reader, writer = await flows.open("source", seed, size)
    found, received = hashlib.sha256(), 0
    while data := await reader.read(flows.random.randint(1, 1 << 17)):
        found.update(data)
        received += len(data)
        if slow and received < 1 << 20:
            await asyncio.sleep(0.01)
    writer.close()
    expect(received == size, f"{received} bytes came of {size}")
    expect(found.hexdigest() == digest(seed, size), f"{size} bytes came, but others")
    flows.bytes += size


async def both_ways(flows: Flows, seed: int) -> None:
    """Send while the same bytes come back."""
    size = flows.size()
    reader, writer = await flows.open("echo", seed)

    async def send() -> None:
        for piece in stream(seed, size):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    found, received = hashlib.sha256(), 0
    while data := await reader.read(1 << 16):
        found.update(data)
        received += len(data)
    await sending
    writer.close()
    expect(received == size, f"{received} bytes of {size} came back")
    expect(found.hexdigest() == digest(seed, size), f"{size} bytes came back, but others")
    flows.bytes += 2 * size


async def keep_alive(flows: Flows, seed: int) -> None:
    """Ask and answer in turn, a few bytes each."""
    reader, writer = await flows.open("echo", seed)
    for _ in range(flows.random.randint(1, 50)):
        asked = flows.random.randbytes(flows.random.randint(1, 300))
        writer.write(asked)
        expect(await reader.readexactly(len(asked)) == asked, "another answer came")
        flows.bytes += 2 * len(asked)
    writer.write_eof()
    expect(await reader.read() == b"", "more came than was asked for")
    writer.close()


async def reset_by_peer(flows: Flows, seed: int) -> None:
    """A reset of the peer's stays one."""
    reader, writer = await flows.open("cut", seed, flows.size(5))
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionResetError:
        return
    finally:
        writer.close()
    raise Wrong("the peer's reset came as an orderly end")


async def reset_by_us(flows: Flows, seed: int) -> None:
    """A reset of ours reaches the peer as one."""
    _, writer = await flows.open("sink", seed)
    for piece in stream(seed, flows.size(5)):
        writer.write(piece)
        await writer.drain()
    while await flows.ask(seed) == "unknown":  # a reset may overtake what was sent before it
        await asyncio.sleep(0.05)
    reset(writer)
    await flows.fate(seed, "reset")


async def unread(flows: Flows, seed: int) -> None:
    """Close without having read everything."""
    reader, writer = await flows.open("source", seed, flows.size())
    await reader.read(1000)
    writer.close()
    await flows.fate(seed, "reset", "eof")


async def stalled(flows: Flows, seed: int) -> None:
    """Send to a peer that does not read until nothing more is taken; what is held in between is bounded."""
    _, writer = await flows.open("stall", seed)
    sent = 0
    try:
        for piece in stream(seed, 2 * STALLED):
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 1)
            sent += len(piece)
        raise Wrong(f"a peer that reads nothing took {sent} bytes")
    except TimeoutError:
        pass
    expect(sent < STALLED, f"{sent} bytes are held for a peer that reads nothing")
    reset(writer)
    await flows.fate(seed, "reset")


async def refused(flows: Flows, _seed: int) -> None:
    """Nobody serves this port of the pod, and that is said at once (a service's: by ICMP, if at all)."""
    try:
        await asyncio.open_connection(flows.pod, CLOSED)
    except ConnectionRefusedError:
        return
    raise Wrong("a port that nobody serves took a connection")


async def given_up(flows: Flows, _seed: int) -> None:
    """Ask an address that no pod has, and lose patience."""
    try:
        async with asyncio.timeout(flows.random.uniform(0.05, 1)):
            await asyncio.open_connection("10.244.1.250", PORT)
    except (TimeoutError, OSError):
        return
    raise Wrong("a pod that does not exist took a connection")


async def answered(sock: socket.socket, sent: bytes, seconds: float) -> bytes | None:
    """Send a datagram and return the answer, None for none."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, sent)
    try:
        return await asyncio.wait_for(loop.sock_recv(sock, 65_535), seconds)
    except TimeoutError:
        return None


async def connected(flows: Flows, kind: int, protocol: tuple[int, int], port: int) -> socket.socket:
    """Return a connected socket of a random family."""
    family = flows.random.randrange(2)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(flows.host, port, family=FAMILIES[family], type=socket.SOCK_STREAM)
    sock = socket.socket(FAMILIES[family], kind, protocol[family])
    sock.setblocking(False)
    sock.connect(found[0][4])
    return sock


async def datagrams(flows: Flows, seed: int) -> None:
    """Datagrams of all sizes come back whole; at most a few are lost."""
    lost = 0
    with await connected(flows, socket.SOCK_DGRAM, (0, 0), PORT) as sock:
        for number in range(10):
            sent = struct.pack("!QI", seed, number) + flows.random.randbytes(flows.size(4.77))
            answer = await answered(sock, sent, 5)
            expect(answer in {sent, None}, f"another datagram than the {len(sent)} bytes sent came back")
            lost += answer is None
            if answer is None:
                break
            flows.bytes += 2 * len(sent)
    flows.unanswered += lost


async def unreachable(flows: Flows, _seed: int) -> None:
    """Nobody has this port, which ICMP says; but a host sends only some of that each second."""
    with await connected(flows, socket.SOCK_DGRAM, (0, 0), CLOSED) as sock:
        try:
            expect(await answered(sock, b"?", 1) is None, "a port that nobody has answered")
        except ConnectionRefusedError:
            flows.told_unreachable += 1


async def names(flows: Flows, seed: int) -> None:
    """Names of the cluster resolve, and those that do not exist do not."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(flows.host, PORT, type=socket.SOCK_STREAM)
    expect({one[0] for one in found} == set(FAMILIES), f"{flows.host} resolves to {found}")
    try:
        await loop.getaddrinfo(f"absent-{seed}", PORT)
    except socket.gaierror as error:
        expect(error.errno == socket.EAI_NONAME, str(error))
        return
    raise Wrong("a name that does not exist has an address")


Kind = Callable[[Flows, int], Coroutine[None, None, None]]
KINDS: tuple[Kind, ...] = (
    *(upload, download, both_ways, keep_alive, reset_by_peer, reset_by_us, unread, stalled),
    *(refused, given_up, datagrams, unreachable, names),
)


async def one(flows: Flows, kinds: tuple[Kind, ...]) -> None:
    """Run a flow of a random kind, and note what was wrong with it."""
    kind, seed = flows.random.choice(kinds), flows.random.getrandbits(60)
    running = asyncio.ensure_future(kind(flows, seed))
    await asyncio.wait((running,), timeout=PATIENCE)
    if not running.done():
        [frame] = running.get_stack()
        flows.failures.append(f"{kind.__name__} {seed}: nothing for {PATIENCE:.0f} s, line {frame.f_lineno}")
        running.cancel()
    elif error := running.exception():
        flows.failures.append(f"{kind.__name__} {seed}: {type(error).__name__}: {error}")
    flows.kinds[kind.__name__] += 1


def say(flows: Flows, begin: float) -> None:
    """Print how far it is."""
    told = {
        "seconds": round(time.monotonic() - begin),
        "flows": flows.kinds.total(),
        "kinds": dict(flows.kinds),
        "bytes": flows.bytes,
        "unanswered": flows.unanswered,
        "told_unreachable": flows.told_unreachable,
        "failures": flows.failures,
    }
    print(json.dumps(told), flush=True)


async def main(host: str, pod: str, seconds: float, seed: int, *names: str) -> None:
    """Keep `AT_ONCE` flows of the named kinds (all, if none) going for a while, then let them end."""
    kinds = tuple(kind for kind in KINDS if kind.__name__ in names) or KINDS
    flows, begin = Flows(host, pod, seed), time.monotonic()

    async def keep_going() -> None:
        while time.monotonic() < begin + seconds:
            await one(flows, kinds)

    running = {asyncio.create_task(keep_going()) for _ in range(AT_ONCE)}
    while running:
        _, running = await asyncio.wait(running, timeout=10)
        say(flows, begin)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
