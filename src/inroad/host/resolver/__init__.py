"""Leading the host's name lookups to inroad's DNS server: one back end of several, never more.

`api` is the contract; `choose` picks one and says why. `overriding` redirects packets (`redirect` says
what, `nft` and `iptables` write it down, `conntrack` makes the kernel forget the old way); `fake` is for
tests.
"""
