"""A short run of the packet path's fuzz target; `make fuzz` runs a long one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "fuzz_packets", Path(__file__).parents[1] / "fuzz" / "fuzz_packets.py"
)
fuzz_packets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_packets)


def test_no_packet_harms() -> None:
    for seed in range(30):
        fuzz_packets.one(seed)
