"""What the redirection looks like in the words of nft and iptables."""

from ipaddress import ip_address

from inroad.host.resolver.redirect import Redirection, addresses_of, iptables_rules, nft_commands

BOTH = Redirection(
    servers=tuple(map(ip_address, ("10.0.0.53", "10.0.0.54", "fd00::53"))),
    targets=((ip_address("246.246.0.1"), 53), (ip_address("fd00:0:0:246::1"), 5353)),
    mark=0x1A0AD,
)


def test_nft_in_one_line():
    assert nft_commands(BOTH).split("; ") == [
        "add table inet inroad_dns { flags owner",
        "}",
        "add chain inet inroad_dns output { type nat hook output priority -110",
        "policy accept",
        "}",
        "flush chain inet inroad_dns output",
        "add rule inet inroad_dns output meta mark 0x1a0ad return",
        "add rule inet inroad_dns output ip daddr { 10.0.0.53, 10.0.0.54 } "
        "meta l4proto { tcp, udp } th dport 53 dnat ip to 246.246.0.1:53",
        "add rule inet inroad_dns output ip6 daddr { fd00::53 } "
        "meta l4proto { tcp, udp } th dport 53 dnat ip6 to [fd00:0:0:246::1]:5353",
    ]


def test_iptables():
    assert iptables_rules(BOTH, 4) == [
        "-m mark --mark 0x1a0ad -j RETURN",
        "-d 10.0.0.53 -p udp --dport 53 -j DNAT --to-destination 246.246.0.1:53",
        "-d 10.0.0.53 -p tcp --dport 53 -j DNAT --to-destination 246.246.0.1:53",
        "-d 10.0.0.54 -p udp --dport 53 -j DNAT --to-destination 246.246.0.1:53",
        "-d 10.0.0.54 -p tcp --dport 53 -j DNAT --to-destination 246.246.0.1:53",
    ]
    assert iptables_rules(BOTH, 6) == [
        "-m mark --mark 0x1a0ad -j RETURN",
        "-d fd00::53 -p udp --dport 53 -j DNAT --to-destination [fd00:0:0:246::1]:5353",
        "-d fd00::53 -p tcp --dport 53 -j DNAT --to-destination [fd00:0:0:246::1]:5353",
    ]


def test_a_family_without_a_target_is_left_alone():
    only4 = Redirection(BOTH.servers, BOTH.targets[:1], BOTH.mark)
    assert [target[0].version for target, _ in only4.pairs()] == [4]
    assert "ip6" not in nft_commands(only4)


def test_addresses_of_servers():
    assert addresses_of([("10.0.0.53", 53), ("fe80::1%eth0", 53), ("10.0.0.53", 53), ("10.0.0.9", 5353)]) == (
        ip_address("10.0.0.53"),
        ip_address("fe80::1"),
    )
