"""What must never be in a log."""

from __future__ import annotations

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
