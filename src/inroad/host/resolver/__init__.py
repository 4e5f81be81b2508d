"""Leading the host's name lookups to inroad's DNS server: one back end of several, never more.

`api` is the contract; `choose` probes, picks one and says why; `places` knows where the host keeps how it
finds names without us, and tells of changes. The back ends:

- `resolved`: systemd-resolved over D-Bus; `adaptive` watches it, wants a proof (`self_check`), and takes
  the next one while it does not work;
- `overriding`: redirects packets (`redirect` says what, `nft` and `iptables` write it down, `conntrack`
  makes the kernel forget the old way);
- `macos`: files in `/etc/resolver`;
- `windows`: settings of the interface and the search list (`windows_api` is the only part that needs
  Windows);
"""
