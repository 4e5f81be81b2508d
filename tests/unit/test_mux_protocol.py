"""The examples of docs/protocol.md: our muxes send exactly these bytes, and understand them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_mux import Pair, parse

from inroad.core import frames
from inroad.core.flows import Refusal
from inroad.core.messages import Dial, encode
from inroad.core.mux_input import PeerClosed

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def examples() -> dict[str, list[tuple[str, bytes]]]:
    """Name -> [(side, bytes of one frame)]."""
    found = {}
    for name, text in re.findall(r"```example (\w+)\n(.*?)```", PAGE, re.DOTALL):
        lines: list[tuple[str, bytes]] = []
        for line in text.splitlines():
            code = line.partition(";")[0]
            if code[0] in "CS":
                lines.append((code[0], bytes.fromhex(code[1:])))
            else:
                lines[-1] = (lines[-1][0], lines[-1][1] + bytes.fromhex(code))
        found[name] = lines
    return found


WEB = encode(Dial("tcp", "10.96.0.10", 80))


class Recorded(Pair):
    """A pair that writes down each frame and who sent it."""

    def __init__(self, **options) -> None:
        super().__init__(eager=False, **options)
        self.script: list[tuple[str, bytes]] = []

    def carry(self, wire, lane, size=None) -> bool:
        side = "C" if wire is self.up else "S"
        for flow_id, kind, payload in parse(wire.content):
            self.script.append((side, frames.frame(flow_id, kind, payload)))
        return super().carry(wire, lane, size)


def play_tcp() -> Recorded:
    pair = Recorded()
    client = pair.open(WEB, eager=False)
    pair.run()
    client.flow.write(b"hello")
    pair.run()
    pair.served[0].flow.write(b"bye", True)
    pair.run()
    client.flow.write_eof()
    pair.run()
    return pair


def play_refused() -> Recorded:
    pair = Recorded(accept=False)
    pair.open(WEB)
    pair.run()
    pair.served[0].flow.refuse(Refusal.REFUSED, "Connection refused")
    pair.run()
    return pair


def play_cancelled() -> Recorded:
    pair = Recorded(accept=False)
    client = pair.open(WEB)
    pair.run()
    client.flow.reset()
    pair.run()
    return pair


def play_credit() -> Recorded:
    pair = Recorded(window=8)
    client = pair.open(eager=False)
    pair.run()
    pair.served[0].flow.write(b"one two three")
    pair.run()
    client.flow.consumed(4)
    pair.run()
    return pair


def play_goodbye() -> Recorded:
    pair = Recorded()
    pair.client.main.ping(0.0)
    pair.run()
    pair.client.goodbye("quit")
    with pytest.raises(PeerClosed, match="quit"):
        pair.run()
    return pair


PLAYS = {
    "tcp": play_tcp,
    "refused": play_refused,
    "cancelled": play_cancelled,
    "credit": play_credit,
    "goodbye": play_goodbye,
}


def test_each_example_is_played() -> None:
    assert set(examples()) == set(PLAYS)


@pytest.mark.parametrize("name", PLAYS)
def test_our_muxes_send_these_bytes(name: str) -> None:
    assert PLAYS[name]().script == examples()[name]


def test_the_table_of_types_is_the_one_in_the_code() -> None:
    table = {
        name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z]+) \|", PAGE, re.MULTILINE)
    }
    assert table == {name: number for number, name in frames.NAMES.items()}


def test_the_reasons_are_the_ones_in_the_code() -> None:
    (text,) = re.findall(r"Reasons of REFUSED: (.*?)\. An unknown", PAGE, re.DOTALL)
    numbers = {int(number) for number in re.findall(r"\d+", text)}
    assert numbers == {int(reason) for reason in Refusal if reason is not Refusal.LINK_DOWN}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("request (at most 4,096 bytes)", frames.MAX_REQUEST == 4096),
        ("text (UTF-8, at most 1,024 bytes)", frames.MAX_DETAIL == 1024),
        ("one datagram, at most 65,535 bytes", frames.MAX_DATAGRAM == 65_535),
        ("at most 4 MiB", frames.MAX_CONTROL == 4 << 20),
    ],
)
def test_the_bounds_are_the_ones_in_the_code(text: str, value: bool) -> None:
    assert text in PAGE and value
