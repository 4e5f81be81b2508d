"""The traffic-agent, in a pod of some namespace.

* `main`: the link to the traffic-manager and what is served over it.
* `serving`: lookups and dials, the same for every link.
* `direct`: clients that come to the agent itself, on its pod's loopback.
* `identity`: which pod this is, and the proof.
"""
