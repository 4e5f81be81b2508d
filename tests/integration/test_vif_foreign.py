"""The VIFs of macOS and Windows: the same applications as on Linux, over fakes of those systems' devices."""

from __future__ import annotations

import test_vif_narrow
import test_vif_tcp
import test_vif_udp
from foreign_stage import stage
from test_vif_narrow import container

__all__ = ["container", "stage"]

LEFT_OUT = {
    # There is no queue between packet loop and daemon that could be full.
    "test_a_flood_is_dropped_and_counted_and_tcp_goes_on",
    # Whole seconds for what `core` decides alike everywhere.
    "test_a_dns_association_ends_after_five_seconds",
    "test_after_silence_a_retransmission_dials_anew",
}

for module in (test_vif_tcp, test_vif_udp, test_vif_narrow):
    tests = {name for name in vars(module) if name.startswith("test_")} - LEFT_OUT
    globals().update((name, vars(module)[name]) for name in sorted(tests))
