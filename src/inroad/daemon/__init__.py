"""The privileged daemon of a workstation, in reading order.

* `main`: start, end, clean-up after a crash; `local_api`: the socket; `sessions`: none or one. `choose`:
  what these need of the platform (`side_loop`, `pipe_windows`: a named pipe).
* `connecting`: from a request to a living session; `user_child`: the caller's credentials, read with the
  caller's rights; `manager_pod`, `manager_link`: the tunnel; `peer_link`: its greeting; `verify`: the proof.
* `session`: a living session; `cluster_view`: what it knows of the cluster; `settings`: what was configured;
  `origins`: who dials for it; `direct`: links to agents past the manager; `attachments`: agents on demand;
  `host_state`: what it makes of the host; `report`: what status shows; `explain`: the way of a name or an
  address.
* `relay`: VIF flows joined with tunnel flows; `dns_server`: names.
"""
