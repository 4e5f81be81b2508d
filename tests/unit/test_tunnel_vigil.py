"""A peer that falls silent is noticed while something is asked of it, and not otherwise."""

from __future__ import annotations

import asyncio
import time

import pytest

from inroad.tunnel import vigil
from inroad.tunnel.vigil import Vigil


class FakeLink:
    """A link whose peer answers PINGs, or not."""

    def __init__(self):
        self.answers = True
        self.last = 0.0
        self.gave_up = []

    def heard(self):
        return self.last

    def ping(self):
        if self.answers:
            self.last = time.monotonic()

    def give_up_unopened(self, reason):
        self.gave_up.append(reason)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(vigil, "PATIENCE", 0.02)


def watched():
    link, told, changed = FakeLink(), [], asyncio.Event()

    def tell(what):
        told.append(what)
        changed.set()

    return link, Vigil(link, lambda: tell("mute"), lambda: tell("back")), told, changed


async def test_a_silent_peer_is_mute_until_it_is_heard_again():
    link, watch, told, changed = watched()
    link.answers = False
    watch.asked()
    await asyncio.wait_for(changed.wait(), 5)
    assert (told, watch.mute) == (["mute"], True)
    changed.clear()
    link.answers = True
    await asyncio.wait_for(changed.wait(), 5)
    assert (told, watch.mute) == (["mute", "back"], False)
    assert len(link.gave_up) == 1


async def test_a_peer_that_answers_is_left_alone():
    link, watch, told, _ = watched()
    watch.asked()
    while not link.last:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    asked = link.last
    await asyncio.sleep(0.05)
    assert (told, link.gave_up, link.last) == ([], [], asked), "no PING without a question"
    watch.close()


async def test_a_sign_of_life_answers_the_questions_before_it_only():
    link, watch, told, changed = watched()
    watch.asked()
    link.ping()
    link.answers = False
    while time.monotonic() <= link.last:
        await asyncio.sleep(0)
    watch.asked()
    await asyncio.wait_for(changed.wait(), 5)
    assert told == ["mute"]
    watch.close()
