"""The workstation's routes.

`api` is the contract; `choose` picks the back end; `linux` is the one for Linux, on `rtnetlink` (the
messages) and `placement` (where our rule stands); `fake` has no host.
"""
