"""One tree of errors: each says what is wrong (cause), with what (about), and what to do (remedy).

``str(error)`` is the one line that an operator reads: ``about: cause; remedy``. Code that can go on catches the
narrowest class; the command line prints the line and ends with ``exit_status``. A traceback is always a bug of ours.
"""

from __future__ import annotations

from typing import ClassVar


class OverlayError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        cause: what is wrong, as a fact ("address already in use").
        about: the thing it is wrong with ("UDP port 8285 on 172.31.0.1"); may be empty.
        remedy: what the operator can do ("stop the other agent or choose another Port"); may be empty.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, cause: str, *, about: str = "", remedy: str = "") -> None:
        self.cause = cause
        self.about = about
        self.remedy = remedy
        super().__init__(cause)

    def __str__(self) -> str:
        text = f"{self.about}: {self.cause}" if self.about else self.cause
        return f"{text}; {self.remedy}" if self.remedy else text


class UsageError(OverlayError):
    """The command was called wrongly: an unknown flag, a value of the wrong form. Trying again does not help."""

    exit_status = 2


class ConfigError(OverlayError):
    """The network's config in etcd breaks one of flannel's rules; the agent keeps the last good one."""


class ConfigMissingError(ConfigError):
    """There is no network config in etcd yet."""


class LeaseFormatError(OverlayError):
    """A key or value under ``<prefix>/subnets`` is not a lease; it is skipped, counted and shown."""


class StoreError(OverlayError):
    """Something between us and etcd."""


class StoreUnavailableError(StoreError):
    """No endpoint answered in time. A write may or may not have happened; trying again is right."""


class TlsFilesError(StoreUnavailableError):
    """The TLS files for etcd cannot be used: missing, unreadable, half written. They may be there by the next try."""


class StoreDeniedError(StoreError):
    """etcd answered and refused: wrong user, password, certificate or role."""


class CompactedError(StoreError):
    """The revision asked for is gone: list again and watch from there.

    Attributes:
        revision: the oldest revision that etcd still has; 0 where it does not tell.
    """

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        super().__init__(f"history before revision {revision} was compacted" if revision else "it was compacted")


class StoreRestoredError(CompactedError):
    """The store's past is not the one that we know, as after a restore or a wipe: what we know may not be so.

    Attributes:
        revision: of the store now; 0 where it does not tell.
    """

    def __init__(self, revision: int = 0) -> None:
        super().__init__(revision)
        where = f" and is at revision {revision} now" if revision else ""
        self.cause = f"the store was restored or wiped{where}"
        self.args = (self.cause,)


class LeaseNotFoundError(StoreError):
    """A put named an etcd lease that does not exist (any more); nothing was written."""


class OutOfSubnetsError(OverlayError):
    """Every subnet between SubnetMin and SubnetMax is leased. Ends by itself when one becomes free."""


class NodeError(OverlayError):
    """This machine could not be brought to the desired state."""


class PrivilegeError(NodeError):
    """Root, or a capability, is missing."""


class InterfaceError(NodeError):
    """No interface, or no address on it, fits what was asked for."""


class DeviceError(NodeError):
    """The TUN device cannot be made or is in use."""


class PortInUseError(NodeError):
    """Another process holds the tunnel's UDP port."""


class FileError(NodeError):
    """A file of ours cannot be written."""


class DatapathError(OverlayError):
    """A datapath cannot be started, or has died."""


class ServicesError(OverlayError):
    """A part of the services daemon cannot be started, or has died."""


class LabError(OverlayError):
    """A laboratory cluster cannot be built or does not exist."""


def first_of(error: BaseException) -> BaseException:
    """The error itself; of a group, as several tasks raise it, the first that is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
