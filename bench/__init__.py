"""`make bench`: inroad beside a direct path and beside two hops of a C relay, in one run.

* `places`: network namespaces, the cables between them, and processes that end with the run.
* `servers`: what is measured against: iperf3, an HTTP server, dnsmasq.
* `paths`: the ways from a client to those servers; one class a path.
* `agents`: ways through a sandbox, by the traffic-manager and by agents.
* `scenes`, `lanes`: slow cables, and a link without its bulk lane.
* `cluster`: the traffic-manager's own part, on a generated cluster.
* `measures`: what is measured on a path; one function a tool.
* `sessions`: what is measured of connecting and of following the cluster.
* `report`: medians, ratios, the table and the JSON.

Rules: every target stands in a namespace of its own and no path begins on loopback; paths take turns within
each round, so that a slow minute of the machine hits all of them; TIME_WAIT sockets of one round must not
slow the next, so all namespaces have the same sysctls.
"""
