"""The WebSocket's framing: any pieces, against a slow reader of whole frames; and its manners."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.sandbox.apiserver import websocket


class Recorder:
    """A handler that keeps messages; the transport under it keeps what is written."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.open = False
        self.gone = 0

    def message_part(self, data: bytearray, *, start: bool, end: bool) -> None:
        assert start is not self.open
        if start:
            self.messages.append(b"")
        self.messages[-1] += data
        self.open = not end

    def writable(self, yes: bool) -> None:
        raise AssertionError

    def closed(self) -> None:
        self.gone += 1


class Transport:
    """What the WebSocket needs of a transport."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def set_protocol(self, protocol: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = b"\1\2\3\4") -> bytes:
    """One client frame, written byte by byte from RFC 6455."""
    head = bytes([(0x80 if fin else 0) | opcode])
    bit = 0x80 if mask is not None else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(payload))
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


async def opened() -> tuple[websocket.WebSocket, Recorder, Transport]:
    handler, transport = Recorder(), Transport()
    one = websocket.WebSocket(handler)
    one.take(transport, None, b"")  # type: ignore[arg-type]
    return one, handler, transport


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


messages = st.lists(
    st.tuples(
        st.lists(st.binary(max_size=300), min_size=1, max_size=3),
        st.binary(min_size=4, max_size=4) | st.just(b"\0\0\0\0"),
        st.booleans(),
    ),
    max_size=5,
)


@given(messages, st.lists(st.integers(0, 3000), max_size=10))
def test_pieces_do_not_matter(sent: Any, cuts: list[int]) -> None:
    stream, wanted, pongs = b"", [], b""
    for parts, mask, ping in sent:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            stream += frame(2 if index == 0 else 0, part, fin=last, mask=mask)
            if ping:
                stream += frame(9, b"are you there", mask=mask)
                pongs += b"\x8a\x0dare you there"
        wanted.append(b"".join(parts))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    async def feed() -> None:
        one, handler, transport = await opened()
        for start, end in itertools.pairwise(edges):
            one.received(memoryview(bytearray(stream[start:end])))
        assert handler.messages == wanted
        assert transport.written == pongs

    run(feed())


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200_000])
async def test_sizes_both_ways(size: int) -> None:
    one, handler, transport = await opened()
    payload = bytes(size)
    one.received(memoryview(frame(2, payload)))
    assert handler.messages == [payload]
    one.send((b"a", payload))
    head = websocket.frame_header(size + 1)
    assert transport.written == head + b"a" + payload
    assert frame(2, b"a" + payload, mask=None).startswith(head)


async def test_the_peers_goodbye_is_answered() -> None:
    one, handler, transport = await opened()
    one.received(memoryview(frame(8, struct.pack("!H", 1000) + b"bye") + frame(2, b"too late")))
    assert transport.written == b"\x88\x02" + struct.pack("!H", 1000)
    assert transport.is_closed and handler.gone == 1 and handler.messages == []


async def test_our_goodbye_waits_for_the_peers() -> None:
    one, handler, transport = await opened()
    one.send_close()
    one.send((b"nothing more",))
    assert transport.written == b"\x88\x02" + struct.pack("!H", 1000)
    assert not transport.is_closed
    one.received(memoryview(frame(2, b"on its way") + frame(8, struct.pack("!H", 1000))))
    assert transport.is_closed and handler.messages == []


@pytest.mark.parametrize(
    "data",
    [
        frame(2, b"x", mask=None),
        bytes([0xC2, 0x80]) + b"\0\0\0\0",  # an extension's bit
        frame(9, b"x" * 126),
        frame(9, b"", fin=False),
    ],
)
async def test_broken_frames_end_the_connection(data: bytes) -> None:
    one, _, transport = await opened()
    one.received(memoryview(data))
    assert transport.written[:4] == b"\x88\x10" + struct.pack("!H", 1002)


def test_the_handshake() -> None:
    headers = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13"}
    answer = websocket.handshake(headers, ["a", "b"], ["b", "a"])
    assert answer["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
    assert answer["Sec-WebSocket-Protocol"] == "a"
    assert "Sec-WebSocket-Protocol" not in websocket.handshake(headers, [], ["a"])
    with pytest.raises(websocket.Refused):
        websocket.handshake(headers, ["c"], ["a"])
    with pytest.raises(websocket.Refused):
        websocket.handshake({"sec-websocket-version": "8"}, [], [])
