"""Loading the compiled object, and keeping its programs at a cgroup: maps and links outlive who made them.

Pins, below one directory for each cgroup (its number, for bpffs is one for all)::

    /sys/fs/bpf/overlay-services/1/services, backends, …     maps
    /sys/fs/bpf/overlay-services/1/overlay_connect4, …       links, named as their programs

A link is a place among the programs of a hook: those of others stay, before and behind.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import DatapathError, NodeError, OverlayError
from overlay.linux import bpffs, cgroups
from overlay.linux.libbpf import Link, Map, Object, Program

OBJECT = Path(__file__).with_name("sockets.bpf.o")
PIN_ROOT = bpffs.MOUNT_POINT / "overlay-services"

_MAPS = ("services", "backends", "members", "reverse", "choices", "affinities", "inside", "counters")
_PROGRAMS = (
    "overlay_getpeername4",
    "overlay_getpeername6",
    "overlay_recvmsg4",
    "overlay_recvmsg6",
    "overlay_sendmsg4",
    "overlay_connect4",
    "overlay_connect6",
)
"""In the order in which they are attached: what undoes before what does, so that no answer is left as it is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs that are ready to be attached, and their maps by name.

    Attributes:
        adopted: the maps are a predecessor's.
    """

    programs: dict[str, Program]
    maps: dict[str, Map]
    adopted: bool

    def close(self) -> None:
        """Gives the descriptors back; what is attached or pinned stays."""
        for program in self.programs.values():
            program.close()
        for each in self.maps.values():
            each.close()


def pin_directory(cgroup: Path) -> Path:
    """Where what belongs to ``cgroup`` is pinned."""
    return PIN_ROOT / str(cgroups.number(cgroup))


def load(pins: Path, path: Path = OBJECT) -> Loaded:
    """Loads programs; maps are those pinned in ``pins``, where they fit, or new ones, pinned there.

    Raises:
        NodeError: there is no bpffs, or the kernel refuses the programs. Nothing was changed then.
    """
    if not bpffs.ensure():
        raise NodeError("cannot be mounted", about=str(bpffs.MOUNT_POINT), remedy="use --proxy-mode nftables")
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NodeError(f"cannot be made: {error.strerror}", about=str(pins)) from error
    try:
        return _load(path, pins)
    except DatapathError as error:
        # Another version's maps, perhaps. New ones do: links get the new programs once the new maps are filled.
        there = [pins / name for name in _MAPS if (pins / name).exists()]
        if not there:
            raise
        _log.warning("maps in %s cannot be taken over, making new ones: %s", pins, error)
        for pin in there:
            pin.unlink()
        return _load(path, pins)


def load_unpinned(path: Path = OBJECT) -> Loaded:
    """The same with maps that last as long as somebody has them open. Raises DatapathError, PrivilegeError."""
    return _load(path, None)


def _load(path: Path, pins: Path | None) -> Loaded:
    adopted = pins is not None and (pins / "services").exists()
    with Object(path) as opened, ExitStack() as taken:
        if pins is not None:
            for name in _MAPS:
                opened.pin(name, pins / name)
        opened.load()
        programs = {name: taken.enter_context(closing(opened.program(name))) for name in _PROGRAMS}
        maps = {name: taken.enter_context(closing(opened.map(name))) for name in _MAPS}
        taken.pop_all()  # the caller's from here on
        return Loaded(programs, maps, adopted)


class Attachment:
    """The programs' places at one cgroup, from :meth:`ensure` to :meth:`close`, which leaves them."""

    def __init__(self, cgroup: Path, pins: Path) -> None:
        self._cgroup, self._pins = cgroup, pins
        self._links: dict[str, Link] = {}

    def ensure(self, loaded: Loaded) -> list[str]:
        """Attaches what is not, and puts our programs in the place of a predecessor's, one by one, each atomically.

        Returns:
            what had to be done; nothing where all was as it should be.

        Raises:
            DatapathError, PrivilegeError: refused; what was attached until then stays, and works.
        """
        return [name for name, program in loaded.programs.items() if self._ensure(name, program)]

    def is_whole(self, loaded: Loaded) -> bool:
        """Whether all is attached as it should be."""
        return all(
            (link := self._links.get(name)) is not None
            and link.program_id == program.id
            and link.cgroup_id != 0
            and (self._pins / name).exists()
            for name, program in loaded.programs.items()
        ) and all((self._pins / name).exists() for name in loaded.maps)

    def _ensure(self, name: str, program: Program) -> bool:
        pin = self._pins / name
        link = self._links.get(name) or self._adopted(pin)
        if link is not None:
            self._links[name] = link
            if link.cgroup_id == cgroups.number(self._cgroup):
                changed = link.program_id != program.id
                if changed:
                    link.replace(program)
                if not pin.exists():
                    link.pin(pin)
                    changed = True
                return changed
            link.close()  # of a cgroup that is gone
            del self._links[name]
            pin.unlink(missing_ok=True)
        descriptor = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link = self._links[name] = Link.to_cgroup(program, descriptor)
        finally:
            os.close(descriptor)
        link.pin(pin)
        return True

    @staticmethod
    def _adopted(pin: Path) -> Link | None:
        try:
            return Link.pinned(pin)
        except DatapathError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOENT:
                return None
            raise

    def close(self) -> None:
        """Gives the descriptors back; the pins hold the links."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def remove(cgroup: Path | None) -> list[str]:
    """Takes the programs of ``cgroup`` (None: of the root) away, and their maps; returns what there was."""
    if not PIN_ROOT.is_dir():
        return []
    pins = pin_directory(cgroup or cgroups.root())
    return [f"programs and maps in {pins} removed"] if _remove(pins) else []


def remove_dead() -> int:
    """Removes what is pinned for cgroups that are gone; returns for how many."""
    return sum(_remove(pins) for pins in sorted(PIN_ROOT.glob("*")) if _is_dead(pins))


def _remove(pins: Path) -> bool:
    # What does goes before what undoes; and whatever another version has pinned.
    names = [*reversed(_PROGRAMS), *(pin.name for pin in sorted(pins.glob("*")))]
    found = [name for name in dict.fromkeys(names) if (pins / name).exists()]
    for name in found:
        (pins / name).unlink()
    for directory in (pins, PIN_ROOT):
        with suppress(OSError):  # not empty, or not there
            directory.rmdir()
    return bool(found)


def _is_dead(pins: Path) -> bool:
    """Whether what the links were attached to is gone."""
    for name in _PROGRAMS:
        try:
            with closing(Link.pinned(pins / name)) as link:
                return link.cgroup_id == 0
        except OverlayError:
            continue
    return False
