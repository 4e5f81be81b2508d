"""The `client:` values of the chart: mounted as a file, pushed to every client, also when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import yaml

from inroad.core.config_read import read_yaml

CHECK_EVERY = 1.0
"""Seconds between two looks; the kubelet replaces a mounted ConfigMap within a minute."""

log = structlog.get_logger()


class ClientConfig:
    """What the file at `path` says; `path` is "" where there is none."""

    def __init__(self, path: str, on_change: Callable[[], None]) -> None:
        self.values: dict[str, Any] = {}
        self._path = Path(path) if path else None
        self._on_change = on_change
        self._text = ""
        self._read()

    def start(self) -> asyncio.Task[None]:
        """Begin to follow the file."""
        return asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while self._path is not None:
            await asyncio.sleep(CHECK_EVERY)
            if self._read():
                self._on_change()

    def _read(self) -> bool:
        """Read the file; a text that is no configuration leaves the former values in force."""
        if self._path is None:
            return False
        try:
            text = self._path.read_text()
        except OSError as error:
            log.warning("the clients' configuration can't be read", path=str(self._path), error=str(error))
            return False
        if text == self._text:
            return False
        self._text = text
        for problem in read_yaml(text, str(self._path)).problems:
            log.warning("the clients' configuration", problem=str(problem))
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError:
            return False
        self.values = data if isinstance(data, dict) else {}
        return True
