"""A short run of the fuzz target of the tunnel's decoder; `make fuzz` runs the long one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "fuzz_tunnel", Path(__file__).parents[1] / "fuzz" / "fuzz_tunnel.py"
)
fuzz_tunnel = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_tunnel)


def test_five_thousand_inputs() -> None:
    cut = sum(fuzz_tunnel.one(seed) for seed in range(5000))
    assert 500 < cut < 4500, "both kinds of peers have to be among them"
