"""Finds and runs iptables and nft; the firewall's only door to other processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from overlay.errors import NodeError, PrivilegeError
from overlay.linux import nf_tables
from overlay.linux.shortage import is_shortage
from overlay.text import harmless

LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
"""Which of iptables' older tables this network namespace has (net/ipv4/netfilter/ip_tables.c)."""

_SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))

_BANNER = re.compile(r"^[\w-]+ v[\d.]+ \(\w+\):")
"""What iptables puts in front of its errors: ``iptables-restore v1.8.9 (nf_tables):``."""

_LOCK_SECONDS = 10
"""How long iptables may wait for another's lock on the tables: kube-proxy holds it for seconds on large nodes."""

_LIMIT_SECONDS = 30
"""After this long a tool is considered hung; longer than it may wait for the lock."""


@dataclass(frozen=True, slots=True)
class Iptables:
    """One variant of iptables: its rules are in nftables' tables of its own, or in the kernel's older ones.

    Attributes:
        save, restore: as ``iptables-save``, ``iptables-restore``.
        command: as ``iptables``; None where it is not there.
    """

    save: str
    restore: str
    command: str | None = None

    def table(self, table: str) -> str | None:
        """One table as text; None where it holds what this tool cannot read. Raises NodeError, PrivilegeError."""
        try:
            text = _run([self.save, "-t", table])
        except PrivilegeError:
            raise
        except NodeError as error:
            if "Parsing nftables rule failed" in error.cause:
                return None
            raise
        # With status 0. Base chains that it cannot show are named in the same way, but beside the whole rest.
        return None if " is incompatible" in text else text

    def tables(self) -> str:
        """All tables that there are; reading makes none. Raises NodeError, PrivilegeError."""
        return _run([self.save])

    def chain(self, table: str, name: str) -> str:
        """One chain as text, whatever else is in its table. Raises NodeError, PrivilegeError."""
        return _run([_found(self.command, "iptables"), "-t", table, "-S", name])

    def carry_out(self, script: str) -> None:
        """Carries a script out, each table of it as a whole or not at all. Raises NodeError, PrivilegeError."""
        _run([self.restore, "--noflush", "--wait", str(_LOCK_SECONDS)], script)

    @property
    def is_nft(self) -> bool:
        """Whether its rules are in nftables. Raises NodeError."""
        return "nf_tables" in _version(self.save)


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the tools are; None for one that is not installed.

    ``iptables-save`` and ``iptables-restore`` are whatever variant (legacy or nft) this machine calls iptables, which
    is the one that Docker uses too. The ``others`` are the variants that it does not call so: the kernel asks the
    rules of both.
    """

    iptables_save: str | None
    iptables_restore: str | None
    nft: str | None
    iptables: str | None = None
    others: tuple[Iptables, ...] = ()

    @classmethod
    def locate(cls) -> Tools:
        save, restore, nft, iptables = map(_which, ("iptables-save", "iptables-restore", "nft", "iptables"))
        # A variant is one program with many names.
        own = None if save is None else os.path.realpath(save)
        others = [
            Iptables(other_save, other_restore, _which(variant))
            for variant in ("iptables-nft", "iptables-legacy")
            if (other_save := _which(f"{variant}-save")) is not None
            and (other_restore := _which(f"{variant}-restore")) is not None
            and os.path.realpath(other_save) != own
        ]
        return cls(save, restore, nft, iptables, tuple(others))

    def again(self) -> Tools:
        """The same, looked for anew where one was missing: people install what they are told to."""
        return self if self.has_iptables and self.has_nftables else Tools.locate()

    @property
    def own_iptables(self) -> Iptables | None:
        """What this machine calls iptables; None where it is not installed."""
        if self.iptables_save is None or self.iptables_restore is None:
            return None
        return Iptables(self.iptables_save, self.iptables_restore, self.iptables)

    @property
    def variants(self) -> tuple[Iptables, ...]:
        """All of iptables that is installed."""
        own = self.own_iptables
        return self.others if own is None else (own, *self.others)

    @property
    def has_iptables(self) -> bool:
        return self.own_iptables is not None

    @property
    def has_nftables(self) -> bool:
        return self.nft is not None

    def list_table(self, family: str, name: str) -> str | None:
        """A table of nftables as JSON; None if there is none. Raises NodeError, PrivilegeError."""
        return self._listed("-j", "list", "table", family, name)

    def _listed(self, *arguments: str) -> str | None:
        try:
            return _run([_found(self.nft, "nftables"), *arguments])
        except NodeError as error:
            if "No such file or directory" in error.cause:
                return None
            raise

    def print_table(self, family: str, name: str) -> str | None:
        """A table as nft writes it for people: with comments on tables and chains, which its JSON did not always have.
        None if there is none. Raises NodeError, PrivilegeError."""
        return self._listed("--stateless", "list", "table", family, name)

    def list_tables(self) -> str:
        """The names of nftables' tables, as JSON. Raises NodeError, PrivilegeError."""
        return _run([_found(self.nft, "nftables"), "-j", "list", "tables"])

    def list_chains(self, family: str = "") -> str:
        """All chains of nftables, or of a family, without their rules, as JSON. Raises NodeError, PrivilegeError."""
        return _run([_found(self.nft, "nftables"), "-j", "list", "chains", *filter(None, [family])])

    def delete_table(self, family: str, name: str) -> bool:
        """Deletes a table of nftables; whether there was one. Raises NodeError, PrivilegeError."""
        try:
            _run([_found(self.nft, "nftables"), "delete", "table", family, name])
        except NodeError as error:
            if "No such file or directory" in error.cause:
                return False
            raise
        return True

    def try_out(self, commands: str) -> None:
        """Has commands of nft's checked, by the kernel too, and not carried out. Raises NodeError, PrivilegeError."""
        _run([_found(self.nft, "nftables"), "-c", "-f", "-"], commands)

    def transact(self, commands: str, *, as_json: bool = True) -> None:
        """Carries commands of nft's out, all or none. Raises NodeError, PrivilegeError."""
        _run([_found(self.nft, "nftables"), *(["-j"] if as_json else []), "-f", "-"], commands)


def has_legacy_filter() -> bool:
    """Whether there is an older table ``filter``; asking an iptables of that kind for it would make it."""
    return "filter" in (_legacy_tables() or ())


def state() -> int | None:
    """Another number once anybody has changed a rule of this network namespace; None where nobody counts changes.

    Nobody counts those of iptables' older tables, so it is None where there are any, and where that is not to be known.
    """
    if _legacy_tables() != []:
        return None
    try:
        return nf_tables.generation()
    except NodeError:
        return None


def _legacy_tables() -> list[str] | None:
    """The older tables that there are; None where that is not to be known."""
    try:
        return LEGACY_TABLES.read_text().split()
    except FileNotFoundError:  # this kernel has none
        return []
    except OSError:
        return None


def _which(name: str) -> str | None:
    return shutil.which(name, path=_SEARCH_PATH)


@cache
def _version(program: str) -> str:
    return _run([program, "--version"])


def _found(path: str | None, package: str) -> str:
    if path is None:
        raise NodeError("not installed", about=package, remedy=f"apt-get install {package}")
    return path


def _run(command: Sequence[str], text: str = "") -> str:
    """Runs a tool to its end; returns what it printed, bytes that are no UTF-8 as in :func:`overlay.text.lines_of`."""
    name = os.path.basename(command[0])
    try:
        done = subprocess.run(
            command,
            input=text.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=_LIMIT_SECONDS,
            env={"PATH": _SEARCH_PATH, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NodeError(
            f"no answer in {_LIMIT_SECONDS} s", about=name, remedy="see what holds the lock on the tables"
        ) from error
    except OSError as error:
        remedy = "" if is_shortage(error) else "install the package again"
        raise NodeError(error.strerror or str(error), about=command[0], remedy=remedy) from error
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "surrogateescape")
    lines = (_BANNER.sub("", harmless(line)).strip() for line in done.stderr.splitlines())
    cause = "; ".join([line for line in lines if line][:2]) or f"exit status {done.returncode}"
    if "ermission denied" in cause or "Operation not permitted" in cause:
        raise PrivilegeError(
            cause, about=name, remedy="run as root or with CAP_NET_ADMIN and CAP_NET_RAW in this network namespace"
        )
    raise NodeError(cause, about=name, remedy=_remedy(cause))


def _remedy(cause: str) -> str:
    if "incompatible" in cause or "CHAIN_ADD failed" in cause:
        return "something made with nft stands in iptables' own table: move it to a table of its own"
    if "lock" in cause:
        return "another program holds the lock on the tables: it is tried again"
    return ""
