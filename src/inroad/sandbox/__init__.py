"""A little Kubernetes cluster on one Linux host, in network namespaces: the stage of the demo and the tests.

Where to begin: `topology` draws the network. `commands` is what the user types, `lifecycle` brings a
sandbox up and down, `supervisor` is the one process that stays.

* the network: `topology` (values), `network` (carried out), `netns`, `services` and `proxy` (service rules)
* where programs run: `place` (namespaces held by a process), `workstation`, `enter` (`exec`), `state`
* the cluster: `cluster` ties together `apiserver`, `manifests` (what is there from the start), `credentials`
* controllers: `controller` (the loop that all share), `replicas`, `statefulsets`, `scheduler`, `endpoints`,
  `namespaces`
* a node: `kubelet`, `pod` (with `pod_files`, `pod_status`, `volumes`), `container`, `probes`
* names: `dns_wire` (messages), `dns_server` (sockets), `dns_zone` and `cluster_dns` (in a pod),
  `dns_forward`, `dns_relay` (on the workstation), `office` (outside)
* changing it: `control` (talking to the supervisor), `edit` (apply, delete), `faults`
* `workloads`: the programs in the pods
"""
