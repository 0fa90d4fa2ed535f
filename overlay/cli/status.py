"""``overlay status``: what this node's agent says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from overlay.cli.leases import duration
from overlay.observe.report import ask


@click.command()
@click.option("--state-dir", default="/run/overlay", show_default=True, metavar="DIR", help="The agent's --state-dir.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
@click.option("--peers", "with_peers", is_flag=True, help="List every peer.")
def status(state_dir: str, as_json: bool, with_peers: bool) -> int:
    """Show this node: its lease, its datapath and why that one, its peers, drops by cause, and what is wrong.

    Exit status 1 if the node is not ready or something is wrong.
    """
    report = ask(Path(state_dir))
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
        console.print(_overview(report))
        if with_peers:
            console.print(_peer_table(report["peers"]))
    return 0 if report["ready"] and not report["problems"] else 1


def _overview(report: dict[str, Any]) -> Table:
    lease, datapath, store, underlay = report["lease"], report["datapath"], report["store"], report["underlay"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("agent", f"{report['version']}, process {report['pid']}, up {duration(report['uptime_seconds'])}")
    table.add_row("node", report["node_id"])
    table.add_row("ready", "yes" if report["ready"] else "no")
    if lease is None:
        table.add_row("lease", "none yet")
    else:
        life = "reserved" if lease["reserved"] else f"valid for {duration(lease['valid_for_seconds'])}"
        table.add_row("lease", f"{lease['subnet']}, {life}")
    table.add_row("underlay", f"{underlay['interface']}, {underlay['address']}, public IP {underlay['public_ip']}")
    table.add_row("etcd", f"{'following' if store['connected'] else 'away'}, {store['endpoint']}")
    table.add_row("datapath", f"{datapath['name']}: {datapath['detail']} ({datapath['reason']})")
    for name, value in datapath["counters"].items():
        if value:
            table.add_row("", f"{name.replace('_', ' ')}: {value}")
    table.add_row("peers", str(len(report["peers"])))
    for problem in report["problems"]:
        table.add_row("problem", problem)
    return table


def _peer_table(peers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SUBNET", "PUBLIC IP", "NODE"):
        table.add_column(heading, no_wrap=True)
    for peer in peers:
        table.add_row(peer["subnet"], peer["public_ip"], peer["node_id"] or "-")
    return table
