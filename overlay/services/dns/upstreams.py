"""Whom to ask for names that are not the cluster's: the host's own resolvers, and never ourselves.

systemd-resolved answers at 127.0.0.53 and asks what it is told, by us too if we are the host's resolver; so the servers
behind it are taken, which it writes down (systemd-resolved.service(8)).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from overlay.linux.files import read_regular

RESOLV_CONF = Path("/etc/resolv.conf")
BEHIND_RESOLVED = Path("/run/systemd/resolve/resolv.conf")

_STUBS = frozenset(map(ip_address, ("127.0.0.53", "127.0.0.54")))

MOST = 3
"""Servers that are asked (resolv.conf(5), MAXNS)."""

MAX_BYTES = 1 << 16


def parse(text: str) -> tuple[str, ...]:
    """The addresses of ``nameserver`` lines, each once; those with a zone (``fe80::1%eth0``) are left out."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        keyword, *values = line.split("#")[0].split(";")[0].split()[:2] or [""]
        if keyword == "nameserver" and values and "%" not in values[0]:
            try:
                found[str(ip_address(values[0]))] = None
            except ValueError:
                continue
    return tuple(found)


def choose(own: str, listed: Iterable[str], behind: Iterable[str]) -> tuple[str, ...]:
    """Whom to ask, in order.

    Args:
        own: our address.
        listed: what the host's resolv.conf names.
        behind: what systemd-resolved's has, in the place of its stub.
    """
    chosen: dict[str, None] = {}
    for each in listed:
        if ip_address(each) in _STUBS:
            chosen.update(dict.fromkeys(behind))
        else:
            chosen[each] = None
    usable = [each for each in chosen if each != own and ip_address(each) not in _STUBS and int(ip_address(each))]
    return tuple(usable[:MOST])


def of_this_host(own: str) -> tuple[str, ...]:
    """The upstreams of this machine."""
    return choose(own, parse(_read(RESOLV_CONF)), parse(_read(BEHIND_RESOLVED)))


def _read(path: Path) -> str:
    try:
        return read_regular(path, MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
