"""What `up` and the supervisor say to each other."""

from __future__ import annotations

import msgspec


class Upstream(msgspec.Struct, frozen=True):
    """How cluster DNS forwards to the workstation: `fold` letters to lower case, `cache` for seconds."""

    fold: bool = False
    cache: int = 0


class Options(msgspec.Struct, frozen=True):
    """What `up` was asked for. `families`: 4 and 6, the primary one first. `wait`: seconds for the pods."""

    name: str = "default"
    nodes: int = 1
    families: tuple[int, ...] = (4,)
    on_host: bool = False
    manager: bool = True
    version: str = "1.34"
    restrict: tuple[str, ...] = ()
    synthetic_nodes: int = 0
    synthetic_pods: int = 0
    upstream: Upstream | None = None
    wait: float = 15.0


class Progress(msgspec.Struct, frozen=True):
    """One line of the supervisor's report. `step`: done, warn, ready or failed; `seconds` since the start."""

    step: str
    text: str
    seconds: float = 0.0
    remedy: str = ""
