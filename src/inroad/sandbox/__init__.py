"""A little Kubernetes cluster on one Linux host, in network namespaces: the stage of the demo and the tests.

Where to begin: `topology` draws the network. `commands` is what the user types, `lifecycle` brings a
sandbox up and down, `supervisor` is the one process that stays.

* the network: `topology` (values), `network` (carried out), `netns`, `services` and `proxy` (service rules)
* where programs run: `place` (namespaces held by a process), `workstation`, `enter` (`exec`), `state`
* the cluster: `apiserver`, `manifests` (what is there from the start), `controller` (the loop that all
  share), `replicas`, `scheduler`, `endpoints`, `namespaces`; `kubelet`, `pod`, `container`, `probes`
* names: `dns_wire` (messages), `dns_server` (sockets), `cluster_dns` and `dns_zone` (in a pod), `office`
  (outside)
* `workloads`: the programs in the pods
"""
