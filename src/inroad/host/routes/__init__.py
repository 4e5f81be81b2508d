"""The workstation's routes.

`api` is the contract; `choose` picks the back end.

Linux: `linux`, on `rtnetlink` (the messages), `netlink` (the socket), `placement` (where our rule stands) and
`monitor` (what others change). macOS and Windows: `commands` does the work, `macos` and `windows` know the
words, `watching` and `watching_windows` hear of changes.
"""
