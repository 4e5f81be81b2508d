"""The journal: what survives which crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inroad.core.errors import HostChangeFailed
from inroad.host.cleanup import clean_up
from inroad.host.journal import Entry, Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.json"


def test_what_was_recorded_is_pending_until_done(path: Path) -> None:
    journal = Journal(path)
    first = journal.record("routes", {"table": 7})
    second = journal.record("resolver.nft", {"table": "inroad"})
    assert [entry.kind for entry in Journal(path).pending()] == ["routes", "resolver.nft"]
    journal.done(first)
    left = Journal(path).pending()
    assert left == [Entry(second, "resolver.nft", {"table": "inroad"})]
    assert left[0].part == "resolver"
    journal.done(second)
    assert not path.exists(), "an empty journal leaves no file"
    journal.done(second)


def test_a_record_is_in_the_file_before_record_returns(path: Path) -> None:
    journal = Journal(path)
    journal.record("vif", {"name": "inroad0"})
    assert b'"kind":"vif"' in path.read_bytes()


@pytest.mark.parametrize(
    "tail", [b'{"id":9,"kind":"rou', b"\0" * 64, b'{"id":9}\n', b"\xff\xfe\n", b'{"done":"x"}\n']
)
def test_a_torn_tail_is_skipped_and_does_not_swallow_the_next_record(path: Path, tail: bytes) -> None:
    Journal(path).record("routes", {"table": 7})
    path.write_bytes(path.read_bytes() + tail)
    again = Journal(path)
    assert [entry.kind for entry in again.pending()] == ["routes"]
    again.record("vif", {})
    assert [entry.kind for entry in Journal(path).pending()] == ["routes", "vif"]


@given(st.lists(st.sampled_from(["record", "done", "crash"]), max_size=30), st.data())
def test_against_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], data: st.DataObject
) -> None:
    """Whatever is recorded and not done is pending, across any number of crashes cut at any byte."""
    path = tmp_path_factory.mktemp("journal") / "j"
    journal = Journal(path)
    model: dict[int, str] = {}
    for number, step in enumerate(steps):
        if step == "record":
            model[journal.record(f"kind{number}", {"n": number})] = f"kind{number}"
        elif step == "done" and model:
            entry = data.draw(st.sampled_from(sorted(model)))
            journal.done(entry)
            del model[entry]
        elif step == "crash":
            torn = data.draw(st.binary(max_size=20)).replace(b"\n", b"")
            if path.exists():
                path.write_bytes(path.read_bytes() + torn)
            journal = Journal(path)
        assert {entry.id: entry.kind for entry in journal.pending()} == model
    assert {entry.id: entry.kind for entry in Journal(path).pending()} == model


async def test_cleaning_up_goes_backwards_and_keeps_what_failed(path: Path) -> None:
    journal = Journal(path)
    for kind in ("vif", "routes", "resolver"):
        journal.record(kind, {})
    undone: list[str] = []

    async def undo(entry: Entry) -> str:
        undone.append(entry.kind)
        return f"removed {entry.kind}" if entry.kind != "vif" else ""

    async def fail(entry: Entry) -> str:
        raise HostChangeFailed("the kernel refused")

    parts = {"vif": undo, "routes": fail, "resolver": undo}
    assert await clean_up(path, parts) == ["removed resolver", "could not undo routes: the kernel refused"]
    assert undone == ["resolver", "vif"]
    assert [entry.kind for entry in Journal(path).pending()] == ["routes"]
    assert await clean_up(path, parts | {"routes": undo}) == ["removed routes"]
    assert await clean_up(path, parts) == []
    assert not path.exists()


async def test_an_entry_of_an_unknown_part_is_named_and_kept(path: Path) -> None:
    Journal(path).record("teleport", {})
    assert await clean_up(path) == ["could not undo teleport: 'teleport'"]
    assert Journal(path).pending()
