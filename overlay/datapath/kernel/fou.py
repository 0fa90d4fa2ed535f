"""The FOU stage: the kernel itself unwraps trains of TCP that the underlay has joined (docs/decisions/kernel-fou.md).

FOU has the tunnel's UDP port and hands what the datagrams hold to an ipip device, ``DEVICE-fou``, on whose ingress
``overlay_fou`` passes on to the TUN device what ``overlay_decap`` has judged::

    underlay ─▶ [overlay_decap] ─ train ─▶ INPUT ─▶ FOU ─▶ ipip ─▶ [overlay_fou] ─▶ TUN device

The programs leave trains to it only while they are told to, so that comes last when it is set up, and first when it is
taken away: nothing is lost by either. The slow path's socket has another port meanwhile. Both port and device would
outlive the agent; one that ends in good order takes them away, for an older version would find the port in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from overlay.datapath.kernel import attach
from overlay.datapath.kernel.attach import Attachment
from overlay.datapath.kernel.maps import ToFou, read_endpoint, write_endpoint
from overlay.datapath.kernel.programs import Loaded
from overlay.datapath.spec import ASIDE
from overlay.errors import DatapathError, NodeError
from overlay.linux import fou
from overlay.linux.fou import Fou, Ipip
from overlay.linux.libbpf import Map
from overlay.linux.netlink import Link
from overlay.linux.tc import Hook, TrafficControl
from overlay.model import UDP_PORT

_FLOW_PORTS = 49152
"""From here on no socket sends: those ports tell flows (overlay.bpf.c)."""
_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class Wish:
    """Whether FOU is to be used, and one line that says why."""

    wanted: bool
    reason: str


NOT_WANTED = Wish(False, "not asked for")


@dataclass(frozen=True, slots=True)
class Stage:
    """What the stage has to be: for the TUN device ``device``, and datagrams to ``address`` and ``port``."""

    device: str
    address: IPv4Address
    port: int


def socket_ports(port: int) -> range:
    """Ports of which the slow path's socket may have one while FOU has the tunnel's."""
    first = (port if port + ASIDE + _CANDIDATES < _FLOW_PORTS else UDP_PORT) + ASIDE
    return range(first, first + _CANDIDATES)


def set_up(stage: Stage, tc: TrafficControl, loaded: Loaded, mended: list[str]) -> Link:
    """The ipip device with the program on it, and FOU on the port; what is so already is left alone, and a device that
    is an earlier version's, or for another address, made anew, with the programs going on without it.

    Raises:
        OverlayError: this kernel, or somebody else on this machine, does not let us; see :func:`remove`.
    """
    name = attach.fou_device(stage.device)
    with Ipip() as ipip, Fou(load=True) as ports:
        present = {each.name: each for each in ipip.devices()}
        ours = present.pop(name, None)
        if others := [claim for each in present.values() if (claim := each.claim(stage.address))]:
            raise DatapathError(
                f"somebody else unwraps IP in IP here: {', '.join(others)}",
                about="FOU",
                remedy="nothing need be done; without that device, start the agent again",
            )
        if ours is not None and not ours.is_for(stage.address):
            mended.extend(f"took away {each}" for each in forsake(loaded.endpoint, stage.device))
        link, made = ipip.ensure_for(name, stage.address)
        if attach.ensure(tc, stage.device, Attachment(link, Hook.INGRESS, loaded.fou)):
            mended.append(f"attached {loaded.fou.name} to ingress of {name}")
        if made or not link.up:  # not before the program is there
            ipip.set_up(link)
        if not ports.takes_packets(stage.port):
            ports.add(stage.port)
            mended.append(f"gave UDP port {stage.port} to FOU")
    return link


def forsake(endpoints: Map, device: str) -> list[str]:
    """Takes the stage away while the programs go on without it; says what there was.

    Raises:
        PrivilegeError, NodeError: something could not be removed.
    """
    former = read_endpoint(endpoints)
    if former is not None and former.to_fou:
        write_endpoint(endpoints, replace(former, to_fou=ToFou.NOTHING))
    return list(remove(device, former.port if former is not None and former.to_fou else None))


def remove(device: str, port: int | None) -> Iterator[str]:
    """Removes what the stage has on this machine: the port first, for a port without a device refuses aloud.

    Args:
        port: the one that FOU had for us; None if that is not known.

    Raises:
        PrivilegeError, NodeError: something could not be removed.
    """
    name = attach.fou_device(device)
    with Ipip() as ipip:
        link = ipip.link(name)
        present = link is not None and link.kind == fou.KIND
        if present or port is not None:
            taken = UDP_PORT if port is None else port
            if release(taken):
                yield f"FOU on UDP port {taken}"
        if link is not None and present:
            ipip.delete_link(link)
            yield f"ipip device {name}"


def release(port: int) -> bool:
    """Takes a port from FOU; whether it had it. Raises PrivilegeError, NodeError."""
    try:
        ports = Fou(load=False)
    except NodeError:
        return False  # without the module it has no port
    with ports:
        return ports.delete(port)
