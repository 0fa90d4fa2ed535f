"""Loading the compiled object: programs for this agent, maps that outlive it."""

from __future__ import annotations

import logging
import os
import socket
import struct
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from overlay.datapath.kernel.maps import Endpoint, Peers, read_endpoint, read_table
from overlay.errors import DatapathError, OverlayError
from overlay.linux import bpffs, namespaces
from overlay.linux.libbpf import Map, Object, Program
from overlay.model import PeerTable

OBJECT = Path(__file__).with_name("overlay.bpf.o")
PIN_ROOT = bpffs.MOUNT_POINT / "overlay"

_MAPS = ("endpoint", "subnets", "senders", "causes")
_FORMER = ("config", "peers")
"""Names of the first two in version 0.1.0."""
_SO_NETNS_COOKIE = 71

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs that are ready to be attached, and their maps.

    Attributes:
        adopted: the peers in the map are a predecessor's: the programs may be attached before new ones are known.
    """

    encap: Program
    decap: Program
    decap_l3: Program
    gro: Program
    finish: Program
    fou: Program
    endpoint: Map
    counters: Map
    peers: Peers
    adopted: bool

    def close(self) -> None:
        """Gives the descriptors back; what is attached or pinned stays."""
        programs = (self.encap, self.decap, self.decap_l3, self.gro, self.finish, self.fou)
        for each in (*programs, self.endpoint, self.counters):
            each.close()
        self.peers.close()


@dataclass(frozen=True, slots=True)
class Known:
    """What the programs on this machine know, as it was found in pinned maps."""

    endpoint: Endpoint
    peers: PeerTable


def pin_directory(device: str) -> Path:
    """Where the maps of ``device`` are pinned: apart for each network namespace, which bpffs is not."""
    return PIN_ROOT / _own_namespace() / device


def _own_namespace() -> str:
    """``INODE-COOKIE``: the number tells which namespaces live, the cookie (Linux 5.14) is never given out again."""
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return str(inode)
    return f"{inode}-{struct.unpack('=Q', cookie)[0]}"


def recall(pins: Path) -> Known | None:
    """What is pinned in ``pins``, or was by an older version; None if there is nothing that can be read."""
    former = PIN_ROOT / pins.parent.name.partition("-")[0] / pins.name
    for directory, names in ((pins, _MAPS), (former, _FORMER)):
        maps = []
        try:
            for name in names[:2]:
                maps.append(Map.pinned(directory / name))
            if (endpoint := read_endpoint(maps[0])) is not None:
                return Known(endpoint, read_table(maps[1]))
        except OverlayError:
            continue
        finally:
            for each in maps:
                each.close()
    return None


def load(path: Path, pins: Path | None) -> Loaded:
    """Loads programs; maps are those pinned in ``pins``, where they fit, or new ones, pinned there.

    Without ``pins``, or where bpffs cannot be had, the maps live as long as a program that uses them.

    Raises:
        DatapathError, PrivilegeError: nothing was changed then.
    """
    if pins is None or not bpffs.ensure():
        return _load(path, None)
    unpin_dead()
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("cannot pin maps in %s (%s): a restart starts with new ones", pins, error.strerror)
        return _load(path, None)
    try:
        return _load(path, pins)
    except DatapathError as error:
        # Another version's maps, perhaps. New ones do: programs are replaced only when their peers are known.
        if not any((pins / name).exists() for name in _MAPS):
            raise
        log.warning("maps in %s cannot be taken over, making new ones: %s", pins, error)
        unpin(pins)
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _load(path, pins)


def unpin(pins: Path) -> bool:
    """Removes pinned maps; whether there were any. Attached programs keep theirs."""
    found = False
    for pin in pins.glob("*"):  # those of another version, with other names, as well
        with suppress(OSError):
            pin.unlink()
            found = True
    for directory in (pins, pins.parent, PIN_ROOT):
        with suppress(OSError):  # not empty: someone else's, or not there
            directory.rmdir()
    return found


def unpin_dead() -> int:
    """Removes what is pinned for network namespaces that are gone; returns for how many tunnels.

    bpffs outlives them. Should one live on where nobody can see it, nothing is lost: its programs have their maps, and
    its next agent makes new ones. Whose number has been given to another namespace is found out there.
    """
    own = _own_namespace()
    own_number = own.partition("-")[0]
    living = {own_number, *map(str, namespaces.visible())}

    def is_dead(name: str) -> bool:
        number = name.partition("-")[0]
        return number.isdecimal() and (number not in living or (number == own_number and name != own))

    return sum(unpin(pins) for pins in PIN_ROOT.glob("*/*") if is_dead(pins.parent.name))


def _load(path: Path, pins: Path | None) -> Loaded:
    with Object(path) as opened, ExitStack() as taken:
        if pins is not None:
            for name in _MAPS:
                opened.pin(name, pins / name)
        opened.load()

        def program(name: str) -> Program:
            return taken.enter_context(closing(opened.program(name)))

        def map_of(name: str) -> Map:
            return taken.enter_context(closing(opened.map(name)))

        peers = Peers(map_of("subnets"), map_of("senders"), map_of("wishes"))
        loaded = Loaded(
            encap=program("overlay_encap"),
            decap=program("overlay_decap"),
            decap_l3=program("overlay_decap_l3"),
            gro=program("overlay_gro"),
            finish=program("overlay_finish"),
            fou=program("overlay_fou"),
            endpoint=map_of("endpoint"),
            counters=map_of("causes"),
            peers=peers,
            adopted=len(peers) > 0,
        )
        taken.pop_all()  # the caller's from here on
        return loaded
