"""The only code that speaks to the Kubernetes API.

Whom to speak to: `kubeconfig` (files, contexts), `exec_plugin` and `proxies` feed `credentials`, which run
in a child with the user's rights; in a pod it is `service_account`. Speaking: `client` (requests), `tls`,
`failures` (what went wrong, in one line), `upgrade` (a request that becomes a WebSocket), `portforward` (a
pod's port as one), `reflector` (a collection, listed once and then watched). Changing: `apply` (manifests),
`agents` (agents in pods).
"""
