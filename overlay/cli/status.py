"""``overlay status``: what this node's agent says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from overlay.cli.leases import duration
from overlay.cli.options import state_dir_flag
from overlay.cli.tables import show, table
from overlay.daemon.status_socket import ask
from overlay.errors import OverlayError
from overlay.observe.status import PeerStatus, Status
from overlay.text import printable


@click.command()
@state_dir_flag
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
@click.option("--peers", "with_peers", is_flag=True, help="List every peer.")
def status(state_dir: str, as_json: bool, with_peers: bool) -> int:
    """Show this node: its lease, its datapath and why that one, its peers, drops by cause, and what is wrong.

    Exit status 1 if the node is not ready or something is wrong.
    """
    members = ask(Path(state_dir))
    if as_json:
        print(json.dumps(members, indent=2))
    else:
        report = _understood(members)
        show(_overview(report))
        if with_peers:
            show(_peer_table(report.peers))
    return 0 if members["ready"] and not members["problems"] else 1


def _understood(members: dict[str, Any]) -> Status:
    """Raises OverlayError for what an agent of this version would not have said."""
    try:
        return msgspec.convert(members, Status)
    except msgspec.ValidationError as error:
        raise OverlayError(
            f"its report reads differently: {error}",
            about="an agent of another version",
            remedy="restart it, or ask with --json",
        ) from error


def _overview(report: Status) -> Table:
    lease, datapath, store, underlay = report.lease, report.datapath, report.store, report.underlay
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    shown.add_row("agent", f"{report.version}, process {report.pid}, up {duration(report.uptime_seconds)}")
    shown.add_row("node", report.node_id)
    shown.add_row("ready", "yes" if report.ready else "no")
    if lease is None:
        lost = report.lost_lease
        shown.add_row("lease", f"none ({lost.subnet} is now {lost.public_ip}'s)" if lost else "none")
    else:
        life = "reserved" if lease.valid_for_seconds is None else f"valid for {duration(lease.valid_for_seconds)}"
        shown.add_row("lease", f"{lease.subnet}, {life}")
    shown.add_row("underlay", f"{underlay.interface}, {underlay.address}, public IP {underlay.public_ip}")
    shown.add_row("etcd", f"{'following' if store.connected else 'away'}, {store.endpoint}")
    shown.add_row("datapath", f"{datapath.name}: {datapath.detail} ({datapath.reason})")
    if datapath.slow_path:
        shown.add_row("slow path", datapath.slow_path)
    for name, value in datapath.counters.items():
        if value:
            shown.add_row("", f"{name.replace('_', ' ')}: {value}")
    for note in datapath.notes:
        shown.add_row("note", note)
    shown.add_row("peers", str(len(report.peers)))
    for limit, addresses in sorted(_path_mtus(report.peers).items()):
        shown.add_row("path MTU", f"{limit} to {', '.join(addresses)}")
    for problem in report.problems:
        shown.add_row("problem", problem)
    return shown


def _path_mtus(peers: Iterable[PeerStatus]) -> dict[int, list[str]]:
    """Peers' addresses by the largest inner packet that reaches them, where less is known than the device's MTU."""
    found: dict[int, list[str]] = {}
    for peer in peers:
        if peer.path_mtu is not None:
            found.setdefault(peer.path_mtu, []).append(peer.public_ip)
    return {limit: sorted(set(addresses)) for limit, addresses in found.items()}


def _peer_table(peers: Iterable[PeerStatus]) -> Table:
    listed = table("SUBNET", "PUBLIC IP", "NODE", "PATH MTU")
    for peer in peers:
        node = printable(peer.node_id or "-")
        listed.add_row(peer.subnet, peer.public_ip, node, "-" if peer.path_mtu is None else str(peer.path_mtu))
    return listed
