"""A real Kubernetes cluster on one Linux host, made of public parts without any registry.

`build` compiles the programs once, outside the tree; `machine` makes the computers (a set of Linux namespaces
each); `network` cables them; `certs` issues what they trust; `control_plane` and `node` start Kubernetes on
them; `images` fills the nodes' image stores; `addons` puts CoreDNS into the cluster; `cluster` is all of
that in order, and its end. `python -m tests.e2e.cluster up|down|exec|status` drives it by hand.

    workstation ── lan (name server, router) ── node-1 (control plane, kubelet) ── node-2 (kubelet)

The workstation reaches one port of the cluster: the API server's.
"""
