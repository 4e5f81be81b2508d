"""What starts in the cluster on behalf of a client, for traffic-manager and traffic-agent alike.

dial.py         answers the flows of a link: TCP connections, with the truth about those that fail
association.py  what flows of datagrams have in common
udp.py          UDP associations
ping.py         ICMP echo
hops.py         by what the workstation knows these flows again should they come back to it
lookup.py       names, asked of `upstream.py`'s servers
"""
