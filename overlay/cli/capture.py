"""``overlay capture``: the tunnel's packets, outer and inner, live or from a file."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from overlay.cli.options import state_dir_flag
from overlay.daemon.status_socket import ask
from overlay.errors import OverlayError, UsageError
from overlay.model import UDP_PORT
from overlay.observe import capture as tunnel


class _Seconds(click.FloatRange):
    """A time that one can wait for: not for ever, and not "nan"."""

    def __init__(self) -> None:
        super().__init__(0.1, 1e6)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        return self.fail(f"{value} is no number", param, ctx) if math.isnan(seconds) else seconds


@click.command()
@click.option("--iface", metavar="NAME", help="The underlay interface to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="The backend's port; default: this node's, or 8285.")
@state_dir_flag
@click.option("--count", type=click.IntRange(1), help="Stop after so many packets.")
@click.option("--timeout", type=_Seconds(), help="Stop when none came for so many seconds.")
@click.option("--verbose", "-v", is_flag=True, help="The fields of every layer, instead of one line a packet.")
@click.option(
    "--write", type=click.Path(path_type=Path), metavar="FILE", help="Put the packets into a pcap file as well."
)
@click.option("--read", type=click.Path(path_type=Path), metavar="FILE", help="Decode a pcap or pcapng file instead.")
def capture(
    *,
    iface: str | None,
    port: int | None,
    state_dir: str,
    count: int | None,
    timeout: float | None,
    verbose: bool,
    write: Path | None,
    read: Path | None,
) -> None:
    """Show the tunnel's packets: which nodes they pass between, and what is inside. Needs root; ends with Ctrl-C.

    Packets of up to 64 KB are shown as they cross this point: segmentation offload cuts them up further down.
    """
    if (iface is None) == (read is None):
        raise UsageError("one of the two", about="--iface or --read", remedy="for example --iface eth0")
    if read is not None and write is not None and os.path.realpath(read) == os.path.realpath(write):
        raise UsageError("is the file that is read", about=f"--write {write}", remedy="name another")
    with contextlib.ExitStack() as stack:
        packets: Iterator[tunnel.Captured]
        port = port or _port_here(Path(state_dir))
        if read is not None:
            packets = tunnel.read(read, port)
        else:
            packets = stack.enter_context(tunnel.Listener(str(iface), port)).packets(timeout)
        writer = stack.enter_context(tunnel.Writer(write)) if write is not None else None
        for packet in islice(packets, count):
            if writer is not None:
                writer.write(packet)
            print(tunnel.summary(packet), flush=True)
            if verbose:
                print("\n".join(f"  {line}" for line in tunnel.decode(packet)), flush=True)


def _port_here(state_dir: Path) -> int:
    """The port of the agent that runs on this node; flannel's own where none does."""
    try:
        return int(ask(state_dir)["datapath"]["port"])
    except (OverlayError, KeyError, TypeError):
        return UDP_PORT
