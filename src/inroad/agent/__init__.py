"""The traffic-agent, in a pod of some namespace.

* `main`: the link to the traffic-manager and what is served over it.
* `identity`: which pod this is, and the proof.
"""
