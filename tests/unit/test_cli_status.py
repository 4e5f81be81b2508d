import pytest

from inroad.cli.status import watch
from inroad.core.status import Status


class Over(Exception):
    """The script of a test has come to its end."""


def test_watching_shows_each_change_once() -> None:
    script = iter(["connecting", "connecting", "connected", "connected", "reconnecting", "connected"])
    shown: list[str] = []

    def read() -> Status:
        try:
            return Status(state=next(script))
        except StopIteration:
            raise Over from None

    with pytest.raises(Over):
        watch(read, lambda status: shown.append(status.state), lambda: None)
    assert shown == ["connecting", "connected", "reconnecting", "connected"]
