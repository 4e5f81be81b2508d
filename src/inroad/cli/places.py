"""Where the user's own files are."""

from __future__ import annotations

from pathlib import Path


def config_file() -> Path:
    """Return where the user's configuration is, whether it exists or not."""
    import platformdirs  # noqa: PLC0415 - status and quit need no such place

    return Path(platformdirs.user_config_dir("inroad")) / "config.yml"
