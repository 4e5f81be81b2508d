"""The virtual network interface (VIF) and its packet loop.

* `api`: what a VIF is to the daemon. `choose`: which kind this host gets, and why; `open_vif`.
* the daemon's end: `process_linux` (starts the packet loop's process, accepts connections, loads
  `veth_rules`).
* between the two: `wire` (records), `outbox` (sending them without loss).
* the process: `worker_linux` (entry), `veth_linux`, `tun_linux` and `one_tun_linux` (devices, listeners),
  `namespace_linux` and `netlink_linux` (what they need of the kernel), `loop_linux` (the loop). What
  becomes of a packet is decided in `inroad.core.packet_path`.
"""
