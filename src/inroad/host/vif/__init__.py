"""The virtual network interface (VIF) and its packet loop.

* `api`: what a VIF is to the daemon. `choose`: which kind this host gets, and why; `open_vif`.
* `arrivals`: accepts the connections and knows their flows. `inbound_check`: do they arrive at all?

Linux:

* the daemon's end: `process_linux` (starts the packet loop's process, carries records, loads `veth_rules`);
  `firewall` names the rule that is in the way.
* between the two: `wire` (records), `outbox` (sending them without loss).
* the process: `worker_linux` (entry), `veth_linux`, `tun_linux` and `one_tun_linux` (devices, listeners),
  `namespace_linux` and `netlink_linux` (what they need of the kernel), `loop_linux` (the loop).

macOS and Windows: `one_device` is the VIF and its loop, in the daemon's own event loop. `utun` is the device
of macOS (`utun_macos`: its system calls), `wintun` that of Windows (`wintun_windows`: the library and events;
`wintun_setup`: addresses and the firewall).

What becomes of a packet is decided in `inroad.core.packet_path`, everywhere.
"""
