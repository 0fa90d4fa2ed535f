"""``overlay cleanup``: removes all that the agent and the services daemon made on this node."""

from __future__ import annotations

import os
import sys

import click

from overlay.agent.removal import removals
from overlay.cli.options import Places, place_flags
from overlay.daemon.lock import lock
from overlay.model import FLANNELS_DEVICE
from overlay.node.preflight import may_change_network
from overlay.node.removal import Removal, carry_out
from overlay.services import removal as services


@click.command()
@place_flags
def cleanup(places: Places) -> int:
    """Remove device, routes, programs, firewall rules and files; agent and services daemon must have been stopped.

    Containers of this node lose the overlay. The lease in etcd stays until it ends; overlay release gives it back.
    Exit status 1 if something could not be removed.
    """
    may_change_network()
    if places.state_dir.is_dir():
        os.close(lock(places.state_dir, "agent"))
    of_services: tuple[Removal, ...] = ()
    if places.device == FLANNELS_DEVICE:  # a second agent of the machine has no Services of its own
        services.is_free(places.state_dir)
        of_services = (
            Removal("services", lambda: services.programmed(places.state_dir)),
            Removal("services' files", lambda: services.files(places.state_dir)),
        )
    # Printed at the end: a reader who goes away must not end this half-way.
    of_agent = removals(places.device, places.subnet_file, (places.state_dir, places.data_dir))
    removed, failed = carry_out((*of_services, *of_agent))
    for line in failed:
        print(f"overlay cleanup: {line}", file=sys.stderr)
    for line in removed:
        print(line)
    return 1 if failed else 0
