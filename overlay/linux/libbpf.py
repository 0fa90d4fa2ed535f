"""libbpf.so.1 through ctypes: opening and loading an object, and operations on maps. The only user of it.

No compiler, header or BTF of the running kernel is needed; Debian's package is libbpf1, which iproute2 needs as well.
libbpf 1.x returns ``-errno``, or NULL with errno set.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from overlay.errors import DatapathError, PrivilegeError

_LIBRARY = "libbpf.so.1"
_LOG_BYTES = 1 << 16
"""Room for the end of the verifier's log; it is long only when something is wrong."""
_BATCH = 4096
"""Entries in one batch update: 64 KB of keys and values, and far below any limit of the kernel."""

_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "bpf_object__open_file": (c.c_void_p, (c.c_char_p, c.c_void_p)),
    "bpf_object__load": (c.c_int, (c.c_void_p,)),
    "bpf_object__close": (None, (c.c_void_p,)),
    "bpf_object__find_map_by_name": (c.c_void_p, (c.c_void_p, c.c_char_p)),
    "bpf_object__find_program_by_name": (c.c_void_p, (c.c_void_p, c.c_char_p)),
    "bpf_object__next_program": (c.c_void_p, (c.c_void_p, c.c_void_p)),
    "bpf_map__set_pin_path": (c.c_int, (c.c_void_p, c.c_char_p)),
    "bpf_map__fd": (c.c_int, (c.c_void_p,)),
    "bpf_map__key_size": (c.c_uint32, (c.c_void_p,)),
    "bpf_map__value_size": (c.c_uint32, (c.c_void_p,)),
    "bpf_program__fd": (c.c_int, (c.c_void_p,)),
    "bpf_program__set_log_buf": (c.c_int, (c.c_void_p, c.c_void_p, c.c_size_t)),
    "bpf_map_lookup_elem": (c.c_int, (c.c_int, c.c_void_p, c.c_void_p)),
    "bpf_map_update_elem": (c.c_int, (c.c_int, c.c_void_p, c.c_void_p, c.c_uint64)),
    "bpf_map_delete_elem": (c.c_int, (c.c_int, c.c_void_p)),
    "bpf_map_lookup_and_delete_elem": (c.c_int, (c.c_int, c.c_void_p, c.c_void_p)),
    "bpf_obj_get": (c.c_int, (c.c_char_p,)),
    "bpf_obj_pin": (c.c_int, (c.c_int, c.c_char_p)),
    "bpf_link_create": (c.c_int, (c.c_int, c.c_int, c.c_int, c.c_void_p)),
    "bpf_link_update": (c.c_int, (c.c_int, c.c_int, c.c_void_p)),
    "bpf_program__expected_attach_type": (c.c_int, (c.c_void_p,)),
    "bpf_map_delete_batch": (c.c_int, (c.c_int, c.c_void_p, c.POINTER(c.c_uint32), c.c_void_p)),
    "bpf_map_get_next_key": (c.c_int, (c.c_int, c.c_void_p, c.c_void_p)),
    "bpf_map_update_batch": (c.c_int, (c.c_int, c.c_void_p, c.c_void_p, c.POINTER(c.c_uint32), c.c_void_p)),
    "bpf_prog_test_run_opts": (c.c_int, (c.c_int, c.c_void_p)),
    "libbpf_num_possible_cpus": (c.c_int, ()),
    "libbpf_set_print": (c.c_void_p, (c.c_void_p,)),
}


@cache
def _library() -> c.CDLL:
    try:
        library = c.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise DatapathError(
            "not found", about=_LIBRARY, remedy="install it (Debian: libbpf1) or use --datapath userspace"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # it would write to our standard error; we read the verifier's log instead
    return library


def _error(code: int, about: str, detail: str = "") -> DatapathError | PrivilegeError:
    number = abs(code)
    if number in (errno.EPERM, errno.EACCES) and not detail:
        return PrivilegeError(
            "not permitted",
            about=about,
            remedy="run as root or with CAP_BPF and CAP_NET_ADMIN, or use --datapath userspace",
        )
    failure = DatapathError(
        ": ".join(filter(None, (os.strerror(number), detail))), about=about, remedy="use --datapath userspace"
    )
    failure.__cause__ = OSError(number, os.strerror(number))
    return failure


def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has. Raises DatapathError where the machine does not tell."""
    number = int(_library().libbpf_num_possible_cpus())
    if number <= 0:
        raise DatapathError(
            os.strerror(-number),
            about="/sys/devices/system/cpu/possible",
            remedy="mount sysfs there, or use --datapath userspace",
        )
    return number


class Map:
    """A loaded map, by a descriptor of its own. Keys and values are raw bytes of the map's sizes."""

    def __init__(self, name: str, fd: int, key_size: int, value_size: int) -> None:
        self.name, self.fd = name, fd
        self._key_size, self._value_size = key_size, value_size

    @classmethod
    def pinned(cls, path: Path) -> Map:
        """A map that somebody has pinned, whatever its sizes are.

        Raises:
            DatapathError, PrivilegeError: there is none, or it may not be used.
        """
        fd = _library().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise _error(fd, f"pinned map {path}")
        return cls(path.name, fd, *(int(_fd_info(fd, key)) for key in ("key_size", "value_size")))

    def close(self) -> None:
        os.close(self.fd)

    def get(self, key: bytes, *, copies: int = 1) -> bytes | None:
        """The value; for a per-CPU map ``copies`` of it, one per possible CPU, each padded to eight bytes."""
        size = self._value_size if copies == 1 else copies * -(-self._value_size // 8) * 8
        value = c.create_string_buffer(size)
        code = _library().bpf_map_lookup_elem(self.fd, key, value)
        if code == -errno.ENOENT:
            return None
        if code:
            raise _error(code, f"reading map {self.name}")
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Adds or replaces one entry.

        Raises:
            DatapathError: the map is full, or out of memory.
        """
        if code := _library().bpf_map_update_elem(self.fd, key, value, 0):
            raise _error(code, f"writing map {self.name}")

    def put_many(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Adds or replaces entries, thousands in one system call where the kernel can (LPM tries: Linux 5.16)."""
        pending = list(entries)
        for start in range(0, len(pending), _BATCH):
            chunk = pending[start : start + _BATCH]
            keys, values = b"".join(key for key, _ in chunk), b"".join(value for _, value in chunk)
            number = c.c_uint32(len(chunk))
            code = _library().bpf_map_update_batch(self.fd, keys, values, c.byref(number), None)
            if code:  # not supported, or stopped half-way: one by one tells what is wrong
                for key, value in chunk:
                    self.put(key, value)

    def remove(self, key: bytes) -> None:
        """Removes one entry; it may be gone already."""
        code = _library().bpf_map_delete_elem(self.fd, key)
        if code not in (0, -errno.ENOENT):
            raise _error(code, f"writing map {self.name}")

    def remove_many(self, keys: Iterable[bytes]) -> None:
        """Removes entries, thousands in one system call where the kernel can; some may be gone already."""
        pending = list(keys)
        for start in range(0, len(pending), _BATCH):
            chunk = pending[start : start + _BATCH]
            number = c.c_uint32(len(chunk))
            if _library().bpf_map_delete_batch(self.fd, b"".join(chunk), c.byref(number), None):
                for key in chunk:
                    self.remove(key)

    def take(self) -> Iterator[bytes]:
        """Empties a queue, the first first."""
        value = c.create_string_buffer(self._value_size)
        while (code := _library().bpf_map_lookup_and_delete_elem(self.fd, None, value)) == 0:
            yield value.raw
        if code != -errno.ENOENT:
            raise _error(code, f"reading map {self.name}")

    def scan(self) -> Iterator[bytes]:
        """All keys, in no useful order; the map must not change meanwhile."""
        key: bytes | None = None
        following = c.create_string_buffer(self._key_size)
        while (code := _library().bpf_map_get_next_key(self.fd, key, following)) == 0:
            key = following.raw
            yield key
        if code != -errno.ENOENT:
            raise _error(code, f"reading map {self.name}")


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program.

    Attributes:
        id: the kernel's number for it, by which attached ones are recognised.
        hook: ``enum bpf_attach_type``, where its section says one.
    """

    name: str
    fd: int
    id: int
    hook: int

    def close(self) -> None:
        os.close(self.fd)


class Link:
    """A program's place on a hook, which lasts as long as the descriptor or its pin (Linux 5.7)."""

    def __init__(self, fd: int, about: str) -> None:
        self.fd, self._about = fd, about

    @classmethod
    def to_cgroup(cls, program: Program, cgroup: int) -> Link:
        """Puts ``program`` on its hook of a cgroup, an open directory, beside whatever others have there.

        Raises:
            DatapathError: refused: somebody has the hook for himself, or there is no such hook.
            PrivilegeError: this process may not.
        """
        about = f"attaching {program.name}"
        fd = _library().bpf_link_create(program.fd, cgroup, program.hook, None)
        if fd < 0:
            raise _error(fd, about)
        return cls(fd, about)

    @classmethod
    def pinned(cls, path: Path) -> Link:
        """One that somebody has pinned.

        Raises:
            DatapathError, PrivilegeError: there is none, or it may not be used.
        """
        fd = _library().bpf_obj_get(os.fsencode(path))
        if fd < 0:
            raise _error(fd, f"pinned link {path}")
        return cls(fd, f"pinned link {path}")

    def pin(self, path: Path) -> None:
        """Raises DatapathError, PrivilegeError: something is there already, or it is no bpffs."""
        if code := _library().bpf_obj_pin(self.fd, os.fsencode(path)):
            raise _error(code, f"pinning to {path}")

    def replace(self, program: Program) -> None:
        """Puts ``program`` in the place of the one that is there: no packet meets neither.

        Raises:
            DatapathError: what it was attached to is gone (ENOLINK), or the program is for another hook.
        """
        if code := _library().bpf_link_update(self.fd, program.fd, None):
            raise _error(code, self._about)

    @property
    def program_id(self) -> int:
        return int(_fd_info(self.fd, "prog_id"))

    @property
    def cgroup_id(self) -> int:
        """The inode of the cgroup; 0 once that is gone."""
        return int(_fd_info(self.fd, "cgroup_id"))

    def close(self) -> None:
        os.close(self.fd)


class Object:
    """A compiled object, from opening to closing; what was taken from it lives on.

    ``with Object(path) as object: object.pin(…); object.load(); object.map("peers")``
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library = _library()
        self._log = c.create_string_buffer(_LOG_BYTES)
        handle = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise _error(c.get_errno(), f"eBPF object {path}")
        self._handle = c.c_void_p(handle)

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.bpf_object__close(self._handle)

    def pin(self, name: str, path: Path) -> None:
        """Map ``name`` will be the one pinned at ``path``, or be made and pinned there, when the object is loaded."""
        if code := self._library.bpf_map__set_pin_path(self._map(name), os.fsencode(path)):
            raise _error(code, f"pinning map {name}")

    def load(self) -> None:
        """Makes the maps and has the kernel verify the programs.

        Raises:
            DatapathError: refused; the cause ends with the last line of the verifier's log.
            PrivilegeError: this process may not.
        """
        program = self._library.bpf_object__next_program(self._handle, None)
        while program:
            self._library.bpf_program__set_log_buf(program, self._log, _LOG_BYTES)
            program = self._library.bpf_object__next_program(self._handle, program)
        if code := self._library.bpf_object__load(self._handle):
            lines = self._log.value.decode(errors="replace").strip().splitlines()
            verdict = [line for line in lines if not line.startswith("processed ")][-1:]
            raise _error(code, f"loading {self._path.name}", *verdict)

    def map(self, name: str) -> Map:
        handle = self._map(name)
        return Map(
            name,
            os.dup(self._library.bpf_map__fd(handle)),
            self._library.bpf_map__key_size(handle),
            self._library.bpf_map__value_size(handle),
        )

    def program(self, name: str) -> Program:
        handle = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not handle:
            raise DatapathError(f"has no program {name}", about=str(self._path))
        fd = self._library.bpf_program__fd(handle)
        number = int(_fd_info(fd, "prog_id"))
        hook = int(self._library.bpf_program__expected_attach_type(handle))
        return Program(name, os.dup(fd), number, hook)

    def _map(self, name: str) -> int:
        handle = self._library.bpf_object__find_map_by_name(self._handle, name.encode())
        if not handle:
            raise DatapathError(f"has no map {name}", about=str(self._path))
        return int(handle)


def _fd_info(fd: int, wanted: str) -> str:
    """What the kernel tells of a program or map by its descriptor."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        key, _, value = line.partition(":\t")
        if key == wanted:
            return value
    raise DatapathError(f"the kernel does not tell its {wanted}", about="eBPF")


class _DryRun(c.Structure):
    """``struct bpf_test_run_opts`` of bpf/bpf.h (libbpf 1.0)."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("data_in", c.c_char_p),
        ("data_out", c.c_void_p),
        ("data_size_in", c.c_uint32),
        ("data_size_out", c.c_uint32),
        ("ctx_in", c.c_char_p),
        ("ctx_out", c.c_void_p),
        ("ctx_size_in", c.c_uint32),
        ("ctx_size_out", c.c_uint32),
        ("retval", c.c_uint32),
        ("repeat", c.c_int),
        ("duration", c.c_uint32),
        ("flags", c.c_uint32),
        ("cpu", c.c_uint32),
        ("batch_size", c.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a program made of a packet: its verdict (``TC_ACT_…``), the packet afterwards, nanoseconds a run."""

    verdict: int
    packet: bytes
    nanoseconds: int


def dry_run(program: Program, packet: bytes, *, repeat: int = 1) -> DryRun:
    """Runs ``program`` on a frame with an Ethernet header (``BPF_PROG_TEST_RUN``); a redirect is not carried out."""
    out = c.create_string_buffer(len(packet) + 256)
    run = _DryRun(
        sz=c.sizeof(_DryRun),
        data_in=packet,
        data_out=c.addressof(out),
        data_size_in=len(packet),
        data_size_out=len(out),
        repeat=repeat,
    )
    if code := _library().bpf_prog_test_run_opts(program.fd, c.byref(run)):
        raise _error(code, f"test run of {program.name}")
    return DryRun(c.c_int32(run.retval).value, out.raw[: run.data_size_out], run.duration)
