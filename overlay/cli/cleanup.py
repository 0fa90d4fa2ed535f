"""``overlay cleanup``: removes all that the agent made on this node."""

from __future__ import annotations

import os
import sys

import click

from overlay.agent.removal import removals
from overlay.cli.options import Places, place_flags
from overlay.daemon.lock import lock
from overlay.node.preflight import may_change_network
from overlay.node.removal import carry_out


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
    # Printed at the end: a reader who goes away must not end this half-way.
    removed, failed = carry_out(removals(places.device, places.subnet_file, (places.state_dir, places.data_dir)))
    for line in failed:
        print(f"overlay cleanup: {line}", file=sys.stderr)
    for line in removed:
        print(line)
    return 1 if failed else 0
