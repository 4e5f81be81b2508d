"""The only code that speaks to the Kubernetes API.

Whom to speak to: `kubeconfig` (files, contexts), `exec_plugin` and `proxies` feed `credentials`, which run
in a child with the user's rights. Speaking: `client` (requests, errors), `portforward` (a pod's port as a
WebSocket), `reflector` (a collection, listed once and then watched).
"""
