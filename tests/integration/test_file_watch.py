"""A file is watched whatever others do to it: every way in which a resolv.conf is really changed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inroad.host import file_watch
from inroad.host.file_watch import FileWatch


class Told:
    """Counts the calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._event.set()

    async def next(self) -> None:
        async with asyncio.timeout(5):
            await self._event.wait()
        self._event.clear()


@contextmanager
def watching(*paths: Path) -> Iterator[Told]:
    told = Told()
    watch = FileWatch(paths, told)
    try:
        yield told
    finally:
        watch.close()
        watch.close()


def write(path: Path) -> None:
    path.write_text("nameserver 192.0.2.2\n")


def replace(path: Path) -> None:
    write(path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("search lan.example\n")


def link(path: Path) -> None:
    write(path.with_suffix(".other"))
    path.unlink()
    path.symlink_to(path.with_suffix(".other").name)


@pytest.mark.parametrize("change", [write, replace, append, link, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("polled", [False, True], ids=["inotify", "polled"])
async def test_each_change_is_told(tmp_path, monkeypatch, change: Callable[[Path], None], polled: bool):
    if polled:
        monkeypatch.setattr(file_watch._Inotify, "open", lambda: None)
        monkeypatch.setattr(file_watch, "POLL", 0.02)
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with watching(path) as told:
        change(path)
        await told.next()
        replace(path)
        await told.next()


async def test_when_watches_run_out_the_files_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(file_watch, "POLL", 0.02)
    path = tmp_path / "resolv.conf"
    write(path)
    with watching(path) as told:
        monkeypatch.setattr(file_watch._Inotify, "_add", no_more)
        append(path)
        await told.next()
        append(path)
        await told.next()


def no_more(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no inotify watches left")


async def test_what_a_link_leads_to_is_followed(tmp_path):
    """As NetworkManager and systemd-resolved keep it: the file behind the link is replaced."""
    (tmp_path / "run").mkdir()
    real, path = tmp_path / "run" / "resolv.conf", tmp_path / "resolv.conf"
    write(real)
    path.symlink_to("run/resolv.conf")
    with watching(path) as told:
        replace(real)
        await told.next()
        append(real)
        await told.next()


async def test_a_dangling_link_is_waited_for(tmp_path):
    path = tmp_path / "resolv.conf"
    path.symlink_to("run/deep/resolv.conf")
    with watching(path) as told:
        (tmp_path / "run").mkdir()
        await told.next()
        (tmp_path / "run" / "deep").mkdir()
        await told.next()
        write(tmp_path / "run" / "deep" / "resolv.conf")
        await told.next()


async def test_many_changes_make_one_call_and_others_none(tmp_path):
    path, other = tmp_path / "resolv.conf", tmp_path / "other"
    write(path)
    with watching(path) as told:
        write(other)
        other.unlink()
        for _ in range(50):
            append(path)
        await told.next()
        assert told.calls == 1
