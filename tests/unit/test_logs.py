"""What must never be in a log."""

from __future__ import annotations

import pytest
import structlog

from inroad import logs


def test_a_traceback_shows_no_local_variables(capsys):
    logs.configure()
    try:
        secret = "the-user's-token"  # noqa: F841
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger().exception("it failed")
    finally:
        structlog.reset_defaults()
    written = capsys.readouterr().err
    assert "it failed" in written
    assert "ValueError: broken" in written
    assert "the-user" not in written


@pytest.mark.parametrize(
    ("level", "written"),
    [("error", "e"), ("warning", "we"), ("info", "iwe"), ("debug", "diwe"), ("trace", "diwe")],
)
def test_the_level_can_change_while_loggers_are_in_use(capsys, level, written):
    logs.configure()
    try:
        log = structlog.get_logger()
        log.info("before")
        logs.set_level(level)
        for name, text in (("debug", "d"), ("info", "i"), ("warning", "w"), ("error", "e")):
            getattr(log, name)(f"said-{text}")
    finally:
        structlog.reset_defaults()
    said = capsys.readouterr().err
    assert "".join(text for text in "diwe" if f"said-{text}" in said) == written


def test_a_verbose_process_logs_everything(capsys):
    logs.configure(verbose=True)
    try:
        logs.set_level("error")
        structlog.get_logger().debug("a detail")
    finally:
        structlog.reset_defaults()
    assert "a detail" in capsys.readouterr().err
