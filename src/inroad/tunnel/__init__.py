"""The tunnel: links between workstation, traffic-manager and agents that carry flows.

    api.py        what a link and a flow are to the programs (start here)
    link.py       what every link does: schedules `core.mux`, notices a dead peer, closes orderly
    listen.py     listening sockets of the programs in the cluster
    stream.py     links over TCP or Unix sockets, both ends
    transport.py  what links over asyncio transports share
    websocket.py  the client's end of a link over the API server's port-forward
    websocket_frames.py  its framing
    tls.py        links over TLS: traffic-agents and traffic-manager
    pump.py       joins a TCP socket with a flow
    splice.py     joins two flows of different links
    vigil.py      notices within a second that a peer which was asked has fallen silent

The format is written down in docs/protocol.md, the state machine is `core.mux`.
"""
