"""``overlay cleanup``: removes all that the agent made on this node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from overlay.datapath.kernel.machine import cleanup as remove_programs
from overlay.errors import NodeError, OverlayError
from overlay.node.device import LAST_RESORT
from overlay.node.firewall import Firewall
from overlay.node.lock import lock
from overlay.node.netlink import Netlink, RouteType

_OWN_FILES = ("agent.lock", "agent.sock", "lease.json")


@click.command()
@click.option("--device", default="flannel0", show_default=True, metavar="NAME", help="The agent's --device.")
@click.option("--subnet-file", default="/run/flannel/subnet.env", show_default=True, metavar="FILE")
@click.option("--state-dir", default="/run/overlay", show_default=True, metavar="DIR")
@click.option("--data-dir", default="/var/lib/overlay", show_default=True, metavar="DIR")
def cleanup(device: str, subnet_file: str, state_dir: str, data_dir: str) -> int:
    """Remove device, routes, programs, firewall rules and files; the agent must have been stopped.

    Containers of this node lose the overlay. The lease in etcd stays until it ends; overlay release gives it back.
    Exit status 1 if something could not be removed.
    """
    if Path(state_dir).is_dir():
        os.close(lock(Path(state_dir)))
    steps: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("programs", lambda: iter(remove_programs(device))),
        ("device", lambda: _device(device)),
        ("firewall", lambda: iter(Firewall().remove())),
        ("files", lambda: _files(Path(subnet_file), Path(state_dir), Path(data_dir))),
    )
    status = 0
    for name, step in steps:
        try:
            for line in step():
                print(line)
        except (OverlayError, OSError) as error:
            # One that fails must not keep the others from being removed.
            print(f"{name}: {error}")
            status = 1
    return status


def _device(name: str) -> Iterator[str]:
    with Netlink() as netlink:
        for route in netlink.routes():
            if route.type is RouteType.BLACKHOLE and route.metric == LAST_RESORT:
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
