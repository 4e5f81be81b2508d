"""inroad makes a workstation part of a Kubernetes cluster's network.

Layers, from the top (a layer imports only what is below it):

* programs: `cli` (the user's command), `daemon` (privileged, on the workstation), `manager` and
  `agent` (in the cluster), `sandbox` (a little cluster on one host). Programs never import each other.
* `origin`: what starts inside the cluster, for manager and agent alike.
* edges: `host` (the workstation's operating system), `kube` (the Kubernetes API), `tunnel` (bytes
  between client and cluster).
* `core`: decisions only; no sockets, no clock, no event loop.
"""

__version__ = "0.1.0"
