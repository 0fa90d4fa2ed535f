"""Pods that somebody else makes: a directory of JSON files, a v1 Pod each (CNI, podman, the lab).

The file's name without ``.json`` is the pod's id. Needed is only ``metadata.name``; what else a Pod has may be there,
and what is missing is as of a pod that runs: namespace ``default``, phase ``Running``, ready. Write a file beside it
and rename it: files that are no Pod are left alone and told.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from overlay.errors import OverlayError
from overlay.linux.files import read_regular
from overlay.services.objects.document import Object, ObjectFormatError, copy, decode, metadata_of, spec_of, status_of
from overlay.services.pods.mapping import DEFAULT_NAMESPACE, Here, uid
from overlay.services.pods.names import is_dns_label, is_dns_subdomain

DEFAULT_DIRECTORY = Path("/run/overlay/pods.d")

MAX_FILES = 4096
MAX_BYTES = 256 * 1024
"""Of one file."""

LOOK_SECONDS = 0.05
"""How often is looked at the directory itself, whose time of change tells of new files, and of those that went."""

READ_SECONDS = 5.0
"""How often is looked at each file: one that is written to in its place changes nothing about the directory."""

SETTLED_SECONDS = 2.0
"""A file that changed so shortly before it was read may have changed again within one tick of the clock."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PodFileError(OverlayError):
    """A file in the directory is no pod; it is passed over and told."""


class Directory:
    """Follows a directory, which need not be there.

    Attributes:
        pods: the documents as they were written, by id.
        faults: what is wrong with files that are no pods, or with the directory.
        looked: whether it has been looked at.

    Args:
        changed: called after every change.
    """

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        self.pods: dict[str, Object] = {}
        self.faults: tuple[str, ...] = ()
        self.looked = False
        self._path = path
        self._changed = changed
        self._read: dict[str, tuple[tuple[int, int, int], Object | PodFileError]] = {}
        self._stamp: int | None = None
        self._looked_at = 0.0

    async def run(self) -> NoReturn:
        """Follows until cancelled."""
        while True:
            now = time.time()
            stamp = self._own_stamp()
            fresh = stamp is not None and now - stamp / 1e9 < SETTLED_SECONDS
            if fresh or stamp != self._stamp or not 0 <= now - self._looked_at < READ_SECONDS:
                self._stamp = stamp
                self.look(now)
            await asyncio.sleep(LOOK_SECONDS)

    def _own_stamp(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None

    def look(self, now: float) -> None:
        """Reads what has changed since the last look; ``now`` is of the wall clock, as files' times are."""
        self._looked_at = now
        found: dict[str, Object] = {}
        faults: list[str] = []
        read: dict[str, tuple[tuple[int, int, int], Object | PodFileError]] = {}
        try:
            stamps = self._stamps()
        except OSError as error:  # its pods may well be there: they are as they were
            self.faults = (str(PodFileError(error.strerror or str(error), about=str(self._path))),)
            return
        for name, stamp in sorted(stamps.items()):
            known = self._read.get(name)
            fresh = now - stamp[0] / 1e9 < SETTLED_SECONDS
            pod = self._parsed(name) if known is None or known[0] != stamp or fresh else known[1]
            read[name] = stamp, pod
            if isinstance(pod, PodFileError):
                faults.append(str(pod))
            else:
                found[name.removesuffix(".json")] = pod
        self._read, self.looked = read, True
        if (found, tuple(faults)) != (self.pods, self.faults):
            self.pods, self.faults = found, tuple(faults)
            self._changed()

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        """Of each file; none where there is no such directory. Raises OSError where that cannot be said."""
        stamps: dict[str, tuple[int, int, int]] = {}
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith(".") and len(stamps) < MAX_FILES:
                        with suppress(FileNotFoundError):  # it went while we looked; the others did not
                            status = entry.stat()
                            stamps[entry.name] = status.st_mtime_ns, status.st_ino, status.st_size
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return stamps

    def _parsed(self, name: str) -> Object | PodFileError:
        path = self._path / name
        ident = name.removesuffix(".json")
        try:
            pod = decode(read_regular(path, MAX_BYTES), 0, str(path))
        except (OSError, ObjectFormatError) as error:
            cause = error.cause if isinstance(error, ObjectFormatError) else error.strerror or str(error)
            return PodFileError(cause, about=str(path))
        metadata = metadata_of(pod)
        namespace = metadata.get("namespace") or DEFAULT_NAMESPACE
        if not _ID.fullmatch(ident):
            return PodFileError("its name is no id (letters, digits, dots and hyphens)", about=str(path))
        if not is_dns_subdomain(metadata["name"]):
            return PodFileError("metadata.name is no DNS name", about=str(path))
        if not isinstance(namespace, str) or not is_dns_label(namespace):
            return PodFileError("metadata.namespace is no DNS label", about=str(path))
        return pod


def complete(ident: str, written: Object, here: Here) -> Object:
    """What was written as the Pod that it means on this node."""
    pod = copy(written)
    metadata, spec, status = dict(metadata_of(pod)), dict(spec_of(pod)), dict(status_of(pod))
    metadata.pop("resourceVersion", None)
    metadata["namespace"] = metadata.get("namespace") or DEFAULT_NAMESPACE
    metadata.setdefault("uid", uid(ident.encode().hex()))
    spec["nodeName"] = here.node
    spec.setdefault("containers", [])
    status.setdefault("phase", "Running")
    status.setdefault("conditions", [{"type": kind, "status": "True"} for kind in _CONDITIONS])
    if isinstance(told := status.get("containerStatuses"), list):
        status["containerStatuses"] = [{**_TOLD, **each} for each in told if isinstance(each, dict)]
    if here.address:
        status.setdefault("hostIP", str(here.address))
    if (address := status.get("podIP")) and "podIPs" not in status:
        status["podIPs"] = [{"ip": address}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


_TOLD = {"name": "", "image": "", "imageID": "", "ready": True, "restartCount": 0}
"""What a ContainerStatus must have: clients that check types refuse a whole list for one that has not."""

_CONDITIONS = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
