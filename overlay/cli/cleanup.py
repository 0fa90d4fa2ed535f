"""``overlay cleanup``: removes all that the agent made on this node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from overlay.cli.options import Places, place_flags
from overlay.daemon.lock import lock
from overlay.datapath.kernel.machine import cleanup as remove_programs
from overlay.errors import NodeError, OverlayError
from overlay.linux.netlink import Netlink
from overlay.node.device import own_blackholes
from overlay.node.firewall import Firewall
from overlay.node.preflight import may_change_network

_OWN_FILES = ("agent.lock", "agent.sock", "lease.json", "announced.json", "docker-stale")


@click.command()
@place_flags
def cleanup(places: Places) -> int:
    """Remove device, routes, programs, firewall rules and files; the agent must have been stopped.

    Containers of this node lose the overlay. The lease in etcd stays until it ends; overlay release gives it back.
    Exit status 1 if something could not be removed.
    """
    may_change_network()
    if places.state_dir.is_dir():
        os.close(lock(places.state_dir, "agent"))
    steps: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("programs", lambda: iter(remove_programs(places.device))),
        ("device", lambda: _device(places.device)),
        ("firewall", lambda: iter(Firewall(device=places.device).remove())),
        ("files", lambda: _files(places.subnet_file, places.state_dir, places.data_dir)),
    )
    done, failed = [], []
    for name, step in steps:
        try:
            for line in step():
                done.append(line)  # printed at the end: a reader who goes away must not end this half-way
        except (OverlayError, OSError) as error:
            # One that fails must not keep the others from being removed.
            failed.append(f"overlay cleanup: {name}: {error}")
    for line in failed:
        print(line, file=sys.stderr)
    for line in done:
        print(line)
    return 1 if failed else 0


def _device(name: str) -> Iterator[str]:
    with Netlink() as netlink:
        for route in own_blackholes(netlink.routes(), name):
            netlink.delete_route(route)
            yield f"blackhole {route.destination} removed"
        link = netlink.link(name)
        if link is None:
            return
        if link.kind != "tun":
            raise NodeError(f"is a {link.kind or 'hardware'} interface, not ours", about=f"device {name}")
        netlink.delete_link(link)
    yield f"device {name} removed, and its routes with it"


def _files(subnet_file: Path, state_dir: Path, data_dir: Path) -> Iterator[str]:
    """Our own files, and directories that are empty then; whatever else is in them is not ours."""
    for path in (subnet_file, *(folder / name for folder in (state_dir, data_dir) for name in _OWN_FILES)):
        if path.is_file() or path.is_socket():
            path.unlink()
            yield f"{path} removed"
    for folder in (subnet_file.parent, state_dir, data_dir):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            yield f"{folder} removed"
