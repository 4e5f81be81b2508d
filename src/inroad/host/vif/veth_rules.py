"""What nftables does in the private namespace in veth mode, as text for `nft -f`.

    from the VIF's peer   SYN, UDP, echo requests, other protocols   mark and no tracking: to the TUN
                          of a tracked connection                    DNAT undone or done by tracking
                          neither                                    mark: to the TUN
    from the TUN          SYN that the daemon let go                 DNAT to the listener its DSCP names
                          anything else                              no tracking: to the application

`redirect` in place of `dnat to` would drop: the peer has no address. Tracked ICMP errors go with their
connection, so a path MTU reaches the listener's socket.
"""

from __future__ import annotations

from inroad.core.redirect import LISTENERS

PEER, HOLD = "peer0", "hold0"
MARK = 1
TABLE = 100

_RULES = """
table {family} inroad {{
  chain early {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{hold}" tcp flags & (syn|ack|rst) == syn accept
    iifname "{hold}" tcp flags & (syn|ack|rst) == rst accept
    iifname "{hold}" notrack accept
    meta l4proto != {{ tcp, {icmp} }} meta mark set {mark} notrack accept
    {icmp_match} type echo-request meta mark set {mark} notrack accept
    tcp flags & (syn|ack|rst) == syn meta mark set {mark} notrack accept
  }}
  chain tracked {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{peer}" ct state invalid,new meta mark set {mark}
  }}
  chain deliver {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{hold}" meta l4proto tcp dnat to {listener}:{ip} dscp map {{ {ports} }}
  }}
}}
"""


def rules(listener4: str, listener6: str, first_port: int) -> str:
    """Return the tables for both families; listener number n is at `first_port` + n."""
    ports = ", ".join(f"{number:#04x} : {first_port + number}" for number in range(LISTENERS))
    common = {"hold": HOLD, "peer": PEER, "mark": MARK, "ports": ports}
    return _RULES.format(
        family="ip", icmp="icmp", icmp_match="icmp", ip="ip", listener=listener4, **common
    ) + _RULES.format(
        family="ip6", icmp="ipv6-icmp", icmp_match="icmpv6", ip="ip6", listener=f"[{listener6}]", **common
    )


_RESETS = """
table {family} inroad {{
  chain resets {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != "{peer}" return
    tcp flags & rst == rst ct state established ct status & assured == 0 dup to {via} device "{hold}"
  }}
}}
"""


def resets() -> str:
    """Return rules that show the packet loop the resets of handshakes, so that a dial is cancelled at once.

    Apart from the others because `dup` is a kernel module of its own, and its absence no reason to fail.
    """
    return "".join(
        _RESETS.format(family=family, peer=PEER, hold=HOLD, via=via)
        for family, via in (("ip", "198.19.0.2"), ("ip6", "2001:2::2"))
    )
