"""Lets a pod that is given itself get its own packets back from its bridge.

Where netfilter sees what passes bridges (``br_netfilter``, which Docker loads), a packet is translated on its way in,
and is then for the port that it came by: a bridge drops such frames unless the port may give them back
(``br_nf_pre_routing_finish``, ``should_deliver``). So the ports of bridges that carry this node's subnet are told that
they may, as the kubelet tells them (``hairpin-veth``). Those that were told are noted, and told the contrary when all
is removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

import msgspec

from overlay.linux.bridge import BridgePorts
from overlay.linux.files import write_atomically

FILE_NAME = "services-hairpin.json"


def allow(bridges: Set[int], state_dir: Path) -> int:
    """Tells the ports of these bridges, by their indexes; returns to how many that was news. Raises NodeError."""
    with BridgePorts() as ports:
        every = ports.ports()
        there = {(port.index, port.name) for port in every}
        told = _noted(state_dir) & there
        news = [port for port in every if port.bridge in bridges and not port.hairpin]
        noted = told | {(port.index, port.name) for port in news}
        if news:  # first the note: what is done is then known even if we end here
            write_atomically(state_dir / FILE_NAME, msgspec.json.encode(sorted(noted)).decode())
        for port in news:
            ports.set_hairpin(port, True)
    return len(news)


def remove(state_dir: Path) -> Iterator[str]:
    """Undoes :func:`allow`, and tells what was there. Raises NodeError."""
    if noted := _noted(state_dir):
        with BridgePorts() as ports:
            for port in ports.ports():
                if (port.index, port.name) in noted and port.hairpin:
                    ports.set_hairpin(port, False)
                    yield f"hairpin of bridge port {port.name}"
    (state_dir / FILE_NAME).unlink(missing_ok=True)


def _noted(state_dir: Path) -> set[tuple[int, str]]:
    """Which ports we have told; none where nothing legible is noted."""
    try:
        return set(msgspec.json.decode((state_dir / FILE_NAME).read_bytes(), type=list[tuple[int, str]]))
    except (OSError, msgspec.DecodeError):
        return set()
