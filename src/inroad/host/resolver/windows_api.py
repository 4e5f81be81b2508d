"""DNS settings by the IP Helper API of Windows 10 2004 and later (netioapi.h), no subprocess.

Structures and flags are those of the SDK's documentation: DNS_INTERFACE_SETTINGS, DNS_SETTINGS. What
the host had before is read from the registry, where both the static and the DHCP servers are.
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"  # noqa: S101 - tells mypy

import ctypes  # noqa: E402
import winreg  # noqa: E402
from ctypes import wintypes  # noqa: E402

_VERSION = 1
_IPV6, _NAMESERVER, _SEARCHLIST, _DOMAIN = 0x01, 0x02, 0x04, 0x20
_INTERFACES = r"SYSTEM\CurrentControlSet\Services\Tcpip{}\Parameters\Interfaces"
_PARAMETERS = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"


class _Guid(ctypes.Structure):
    _fields_ = (
        ("data1", wintypes.DWORD),
        ("data2", wintypes.WORD),
        ("data3", wintypes.WORD),
        ("data4", wintypes.BYTE * 8),
    )


class _InterfaceSettings(ctypes.Structure):
    """DNS_INTERFACE_SETTINGS, version 1."""

    _fields_ = (
        ("version", wintypes.ULONG),
        ("flags", ctypes.c_uint64),
        ("domain", wintypes.LPWSTR),
        ("name_server", wintypes.LPWSTR),
        ("search_list", wintypes.LPWSTR),
        ("registration_enabled", wintypes.ULONG),
        ("register_adapter_name", wintypes.ULONG),
        ("enable_llmnr", wintypes.ULONG),
        ("query_adapter_name", wintypes.ULONG),
        ("profile_name_server", wintypes.LPWSTR),
    )


class _Settings(ctypes.Structure):
    """DNS_SETTINGS, version 1."""

    _fields_ = (
        ("version", wintypes.ULONG),
        ("flags", ctypes.c_uint64),
        ("hostname", wintypes.LPWSTR),
        ("domain", wintypes.LPWSTR),
        ("search_list", wintypes.LPWSTR),
    )


class WindowsSettings:
    """See `windows.DnsSettings`."""

    def __init__(self) -> None:
        self._api = ctypes.WinDLL("iphlpapi")
        self._api.ConvertInterfaceAliasToLuid.argtypes = (wintypes.LPCWSTR, ctypes.POINTER(ctypes.c_uint64))
        self._api.ConvertInterfaceLuidToGuid.argtypes = (
            ctypes.POINTER(ctypes.c_uint64),
            ctypes.POINTER(_Guid),
        )
        self._api.SetInterfaceDnsSettings.argtypes = (_Guid, ctypes.POINTER(_InterfaceSettings))
        self._api.SetDnsSettings.argtypes = (ctypes.POINTER(_Settings),)
        for function in (
            self._api.ConvertInterfaceAliasToLuid,
            self._api.ConvertInterfaceLuidToGuid,
            self._api.SetInterfaceDnsSettings,
            self._api.SetDnsSettings,
        ):
            function.restype = wintypes.DWORD

    def set_interface(self, alias: str, servers: tuple[str, ...], domain: str) -> None:
        """See `windows.DnsSettings`."""
        guid = self._guid(alias)
        for family, flag in ((4, 0), (6, _IPV6)):
            chosen = [server for server in servers if (":" in server) == (family == 6)]
            settings = _InterfaceSettings(version=_VERSION, flags=flag | _NAMESERVER | _DOMAIN)
            settings.name_server = ",".join(chosen)
            settings.domain = domain
            _check(self._api.SetInterfaceDnsSettings(guid, ctypes.byref(settings)))

    def search_list(self) -> tuple[str, ...]:
        """See `windows.DnsSettings`."""
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _PARAMETERS) as key:
            return tuple(filter(None, _value(key, "SearchList").split(",")))

    def set_search_list(self, domains: tuple[str, ...]) -> None:
        """See `windows.DnsSettings`."""
        settings = _Settings(version=_VERSION, flags=_SEARCHLIST)
        settings.search_list = ",".join(domains)
        _check(self._api.SetDnsSettings(ctypes.byref(settings)))

    def servers(self, without: str) -> tuple[str, ...]:
        """See `windows.DnsSettings`."""
        try:
            ours = _text(self._guid(without))
        except OSError:  # the interface is not there yet
            ours = ""
        found: dict[str, None] = {}
        for family in ("", "6"):
            for guid, values in _interfaces(_INTERFACES.format(family)):
                if guid.lower() != ours.lower():
                    found.update(dict.fromkeys(values))
        return tuple(found)

    def _guid(self, alias: str) -> _Guid:
        luid, guid = ctypes.c_uint64(), _Guid()
        _check(self._api.ConvertInterfaceAliasToLuid(alias, ctypes.byref(luid)))
        _check(self._api.ConvertInterfaceLuidToGuid(ctypes.byref(luid), ctypes.byref(guid)))
        return guid


def _check(status: int) -> None:
    if status:
        raise ctypes.WinError(status)


def _text(guid: _Guid) -> str:
    tail = bytes(octet & 0xFF for octet in guid.data4).hex()
    return f"{{{guid.data1:08x}-{guid.data2:04x}-{guid.data3:04x}-{tail[:4]}-{tail[4:]}}}"


def _value(key: winreg.HKEYType, name: str) -> str:
    try:
        return str(winreg.QueryValueEx(key, name)[0])
    except FileNotFoundError:
        return ""


def _interfaces(path: str) -> list[tuple[str, list[str]]]:
    """Return each interface's GUID and its servers: those set by hand, else those from DHCP."""
    found = []
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as interfaces:
        for index in range(winreg.QueryInfoKey(interfaces)[0]):
            guid = winreg.EnumKey(interfaces, index)
            with winreg.OpenKey(interfaces, guid) as key:
                servers = _value(key, "NameServer") or _value(key, "DhcpNameServer")
            found.append((guid, servers.replace(",", " ").split()))
    return found
