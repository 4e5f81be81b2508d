"""The traffic-manager, one Deployment per cluster, in reading order.

* `main`: all wiring.
* `cluster_info`: what the Kubernetes API says, as subnets, namespaces and names.
* `clients`: the workstations that are connected.
"""
