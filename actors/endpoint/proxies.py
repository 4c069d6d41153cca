"""Selects the proxy for an endpoint, if there is one."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Mapping


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself: such a server is never behind a proxy."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_for(base_url: str, setting: str, environ: Mapping[str, str]) -> str | None:
    """Return the address of the proxy to use, None for none.

    `setting` is "none", "env" (the variables http_proxy, https_proxy, all_proxy and no_proxy, in either case)
    or an address. Entries of no_proxy are hosts, domains, and address ranges such as 10.0.0.0/8.
    """
    url = urllib.parse.urlsplit(base_url)
    host = url.hostname or ""
    if setting == "none" or is_loopback(host):
        return None
    if setting != "env":
        return setting
    if _excepted(host, url.port, _variable("no_proxy", environ)):
        return None
    address = _variable(f"{url.scheme}_proxy", environ) or _variable("all_proxy", environ)
    return (address if "://" in address else f"http://{address}") if address else None


def without_login(proxy: str) -> str:
    """Return a proxy's address as it may be shown."""
    url = urllib.parse.urlsplit(proxy)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def login_of(proxy: str) -> str:
    """Return the password in a proxy's address, "" if there is none."""
    return urllib.parse.unquote(urllib.parse.urlsplit(proxy).password or "")


def _variable(name: str, environ: Mapping[str, str]) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _excepted(host: str, port: int | None, no_proxy: str) -> bool:
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if entry == "*":
            return True
        if not entry:
            continue
        if "/" in entry and _in_range(host, entry):
            return True
        name, _, wanted_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        name = name.lstrip("*").lstrip(".")
        same_port = not wanted_port or wanted_port == str(port)
        if same_port and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _in_range(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
