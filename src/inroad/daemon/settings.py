"""The session's configuration: five sources, each of which may change while the session lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inroad.core.config import KEYS, Config, Layer, Source, merge
from inroad.core.config_read import read_extensions, read_mapping
from inroad.core.config_values import show
from inroad.core.errors import ConfigInvalid
from inroad.core.status import ConfigValue, ConfigView
from inroad.daemon.as_user import Loaded


class Settings:
    """The merged configuration and where each value came from."""

    def __init__(self) -> None:
        self.config = Config()
        self._layers: dict[Source, Layer] = {}
        self._warnings: list[str] = []
        self._merge()

    def from_user(self, loaded: Loaded, file: str, command_line: Mapping[str, Any]) -> None:
        """Take what the user's file, kubeconfig and command line say; raises `ConfigInvalid`."""
        credentials = loaded.credentials
        layers = [
            read_extensions(credentials.extensions, f"cluster {credentials.cluster} of the kubeconfig"),
            read_mapping(_nested(command_line), "the command line", Source.COMMAND_LINE),
        ]
        if loaded.config is not None:
            layers.append(read_mapping(loaded.config, file, Source.FILE))
        else:
            self._layers.pop(Source.FILE, None)
        for layer in layers:
            for problem in layer.problems:
                if problem.fatal:
                    raise ConfigInvalid(str(problem), "inroad config check shows everything that is wrong")
        self._layers |= {layer.source: layer for layer in layers}
        self._warnings = list(loaded.warnings)
        self._merge()

    def from_manager(self, values: Mapping[str, Any]) -> list[str]:
        """Take what the manager pushes to every client; returns what is wrong in it, and leaves that out."""
        layer = read_mapping(values, "the traffic-manager's client values", Source.MANAGER)
        self._layers[Source.MANAGER] = layer
        self._merge()
        return [str(problem) for problem in layer.problems]

    def name_servers(self) -> tuple[tuple[str, int], ...]:
        """Return the name servers (address, port) that the user prefers to the host's own."""
        return tuple((str(address), port) for address, port in self.config.local_addresses)

    def _merge(self) -> None:
        self._effective = merge(self._layers.values())
        self.config = self._effective.config

    def view(self) -> ConfigView:
        """Return every value with its source, as `inroad config view` shows them."""
        values = [
            ConfigValue(
                key.name, show(getattr(self.config, key.field)), self._effective.sources[key.field].label
            )
            for key in KEYS
        ]
        return ConfigView(values, self._warnings)


def _nested(dotted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Turn `{"dns.excludes": ...}` into the sections of a file."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in dotted.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return sections
