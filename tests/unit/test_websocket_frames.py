"""The client's side of WebSocket framing: what comes cut anywhere, and what goes masked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inroad.tunnel import websocket_frames as frames
from inroad.tunnel.websocket_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Broken, Reader

SIZES = st.sampled_from([0, 1, 2, 125, 126, 127, 300, 65_535, 65_536, 70_000])
CONTROLS = st.tuples(st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125))
MESSAGES = st.lists(st.tuples(SIZES, st.integers(1, 3), st.lists(CONTROLS, max_size=1)), max_size=4)


class Told:
    """Remembers what it is told: messages as far as they came, and control frames."""

    def __init__(self) -> None:
        self.messages: list[bytearray] = []
        self.controls: list[tuple[int, bytes]] = []

    def payload(self, data: memoryview, begin: int, end: int, start: bool) -> None:
        assert begin < end
        if start:
            self.messages.append(bytearray())
        self.messages[-1] += data[begin:end]

    def control(self, opcode: int, payload: bytes) -> None:
        self.controls.append((opcode, payload))


def sent(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A server's frame, written down as plainly as RFC 6455 section 5.2 does."""
    first = bytes(((0x80 if final else 0) | opcode,))
    size = len(payload)
    if size < 126:
        return first + bytes((size,)) + payload
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


def content(size: int, number: int) -> bytes:
    return bytes((index * 7 + number) % 251 for index in range(size))


@settings(deadline=None, max_examples=50)
@given(MESSAGES, st.lists(st.integers(1, 90_000), min_size=1, max_size=8))
def test_payload_comes_through_every_fragmentation(messages: list, cuts: list[int]) -> None:
    stream, want, controls = b"", [], []
    for number, (size, parts, between) in enumerate(messages):
        whole = content(size, number)
        want += [whole] if whole else []
        step = -(-size // parts) or 1
        pieces = [whole[at : at + step] for at in range(0, size, step)] or [b""]
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            stream += sent(CONTINUATION if index else BINARY, piece, last)
            if index == 0:
                stream += b"".join(sent(opcode, payload) for opcode, payload in between)
                controls += between
    told = Told()
    reader = Reader(told)
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        reader.receive(memoryview(stream)[position : position + size])
        position, turn = position + size, turn + 1
    assert (told.messages, told.controls) == (want, controls)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (sent(TEXT, b"hello"), "text"),
        (b"\xc2\x01x", "not agreed on"),
        (b"\x82\x81\0\0\0\0x", "not agreed on"),
        (sent(PING, b"x" * 126), "too long"),
        (sent(CLOSE, b"", final=False), "too long"),
        (sent(CONTINUATION, b"x"), "type 0 out of turn"),
        (sent(BINARY, b"x", final=False) + sent(BINARY, b"y"), "type 2 out of turn"),
        (sent(3, b""), "type 3 out of turn"),
    ],
)
def test_what_breaks_the_rules(stream: bytes, complaint: str) -> None:
    with pytest.raises(Broken, match=complaint):
        Reader(Told()).receive(memoryview(stream))


@given(st.lists(st.integers(0, 66_000), min_size=1, max_size=4), st.binary(min_size=4, max_size=4))
def test_a_message_is_its_parts_masked(sizes: list[int], key: bytes) -> None:
    parts = [content(size, number) for number, size in enumerate(sizes)]
    whole = b"".join(parts)
    message = bytes(frames.frame([memoryview(part) for part in parts], key))
    plain = sent(BINARY, whole)
    head = plain[: len(plain) - len(whole)]
    assert message[: len(head)] == bytes((head[0], head[1] | 0x80)) + head[2:]
    assert message[len(head) : len(head) + 4] == key
    masked = message[len(head) + 4 :]
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(masked[:4096])) == whole[:4096]
    assert masked[-8:] == bytes(whole[at] ^ key[at % 4] for at in range(max(len(whole) - 8, 0), len(whole)))
    assert len(masked) == len(whole)
