"""The traffic-manager, one Deployment per cluster, in reading order.

* `main`: all wiring; `settings`, `client_config`: what the chart says; `health`: probes and metrics.
* `cluster_info`: what the Kubernetes API says, as subnets, namespaces and names. It follows collections by
  `followed`, reads them as `objects`, works out `pod_subnets` and `service_subnets`, waits with `debounce`.
* `clients`: the workstations that are connected; `access`: which agents they may use.
* `agent_side`: agents. `agents`: those there are. `identity`, `token_check` with `token_signature`,
  `agent_pods`: whether one is who it says. `authority`: certificates. `webhook`, `injector`: sidecars.
"""
