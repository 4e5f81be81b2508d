"""SPDY/3.1 framing: bytes in any pieces give the same events; header blocks keep their shared state."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.sandbox.apiserver import spdy


class Client:
    """The other end, written from the draft: one frame at a time, no state but the compressor's."""

    def __init__(self) -> None:
        self.deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
        self.inflate = zlib.decompressobj(zdict=spdy.DICTIONARY)

    def syn_stream(self, stream: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        block = struct.pack("!I", len(headers))
        for text in (text for pair in headers.items() for text in pair):
            block += struct.pack("!I", len(text)) + text.encode()
        block = self.deflate.compress(block) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        body = struct.pack("!IIBB", stream, 0, 0, 0) + block
        return struct.pack("!HHI", 0x8003, 1, (0x01000000 if fin else 0) | len(body)) + body

    @staticmethod
    def data(stream: int, payload: bytes, *, fin: bool = False) -> bytes:
        return struct.pack("!II", stream, (0x01000000 if fin else 0) | len(payload)) + payload

    @staticmethod
    def ping(number: int) -> bytes:
        return struct.pack("!HHII", 0x8003, 6, 4, number)

    @staticmethod
    def rst(stream: int) -> bytes:
        return struct.pack("!HHIII", 0x8003, 3, 8, stream, 5)

    @staticmethod
    def settings() -> bytes:
        return struct.pack("!HHIIII", 0x8003, 4, 12, 1, 0x04000000, 100)


def joined(events: Iterable[spdy.Event]) -> list[object]:
    """Events with the pieces of a data frame put together again, views copied."""
    result: list[object] = []
    for event in events:
        if not isinstance(event, spdy.Data):
            result.append(event)
            continue
        last = result[-1] if result else None
        if isinstance(last, list) and last[0] == event.stream and not last[2]:
            last[1] += bytes(event.data)
            last[2] = event.fin
        else:
            result.append([event.stream, bytes(event.data), event.fin])
    return result


def test_the_dictionary_is_the_drafts() -> None:
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


def conversation() -> bytes:
    client = Client()
    return b"".join(
        (
            client.settings(),
            client.syn_stream(1, {"Streamtype": "error", "Port": "80", "Requestid": "0"}, fin=True),
            client.syn_stream(3, {"streamtype": "data", "port": "80", "requestid": "0"}),
            client.data(3, b"GET / HTTP/1.0\r\n\r\n" * 40),
            client.ping(7),
            client.data(3, b"", fin=True),
            client.rst(3),
        )
    )


EVENTS = [
    spdy.Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}, True),
    spdy.Opened(3, {"streamtype": "data", "port": "80", "requestid": "0"}, False),
    [3, b"GET / HTTP/1.0\r\n\r\n" * 40, False],
    spdy.Reply(Client.ping(7)),
    [3, b"", True],
    spdy.Reset(3),
]


@given(st.lists(st.integers(0, len(conversation())), max_size=12))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    stream = conversation()
    session = spdy.Session()
    edges = [0, *sorted(cuts), len(stream)]
    events: list[spdy.Event] = []
    for start, end in itertools.pairwise(edges):
        for event in session.receive(memoryview(stream[start:end])):
            if isinstance(event, spdy.Data):
                events.append(spdy.Data(event.stream, memoryview(bytes(event.data)), event.fin))
            else:
                events.append(event)
    assert joined(events) == EVENTS


def test_replies_and_data_heads_are_what_a_client_reads() -> None:
    client, session = Client(), spdy.Session()
    for number in (1, 3):
        reply = session.reply(number, {"a": "b"})
        version, kind, length, stream = struct.unpack("!HHII", reply[:12])
        assert (version, kind, length, stream) == (0x8003, 2, len(reply) - 8, number)
        assert client.inflate.decompress(reply[12:]) == struct.pack("!II1sI1s", 1, 1, b"a", 1, b"b")
    assert session.data_head(5, 1000) == struct.pack("!II", 5, 1000)
    assert session.data_head(5, 0, fin=True) == struct.pack("!II", 5, 0x01000000)
    assert session.reset(5) == struct.pack("!HHIII", 0x8003, 3, 8, 5, 3)


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("!HHI", 0x8002, 1, 4) + b"\0\0\0\1",  # SPDY/2
        struct.pack("!HHI", 0x8003, 1, 0xFFFFFF),  # sixteen megabytes of headers
        struct.pack("!HHI", 0x8003, 1, 20) + b"\0" * 20,  # no zlib stream
        struct.pack("!HHI", 0x8003, 3, 1) + b"\0",
    ],
)
def test_broken_frames_end_the_session(frame: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        list(spdy.Session().receive(memoryview(frame)))


def test_a_header_block_can_not_grow_without_bounds() -> None:
    frame = Client().syn_stream(1, {"x": "y" * 1_000_000})
    with pytest.raises(spdy.SpdyError):
        list(spdy.Session().receive(memoryview(frame)))
