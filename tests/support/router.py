"""A router in a network namespace, between a client and a container, and the firewall's real tools inside it.

client 192.0.2.2 ──────── 192.0.2.1 router 10.77.5.1 ──────── 10.77.5.2 container
                       d0                            d1

``OVERLAY_FIREWALL_ROOT=forky`` takes the tools of another Debian's root (``tests.support.roots``) instead of this
machine's: iptables and nft print the same rules in other words with every few versions.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.linux.netfilter import Iptables, Tools
from tests.support import roots

NETWORK = IPv4Network("10.77.0.0/16")
SUBNET = IPv4Network("10.77.5.0/24")

VARIANTS = ("iptables-nft", "iptables-legacy")


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, errors="surrogateescape", timeout=60, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Router:
    """A namespace that forwards between a client and a container, and the tools run inside it."""

    def __init__(
        self, prefix: str, folder: Path, variant: str, outside: str = "d0", there: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            variant: what this machine calls iptables; the other one is another.
            outside: name of the router's link to the client.
            there: options for nsenter(1) by which the router's commands find their files.
        """
        self.there = there
        self.outside = outside
        self.names = {role: f"{prefix}-{role}" for role in ("client", "router", "container")}
        self.folder = folder
        self.variant = variant
        own, *others = (self._iptables(name) for name in sorted(VARIANTS, key=lambda name: name != variant))
        self.tools = Tools(own.save, own.restore, self._wrapper("nft", "nft"), own.command, tuple(others))

    def _iptables(self, variant: str) -> Iptables:
        suffixes = ("-save", "-restore", "")
        return Iptables(*(self._wrapper(f"{variant}{suffix}", f"{variant}{suffix}") for suffix in suffixes))

    def _wrapper(self, name: str, binary: str) -> str:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(self.entering("router"))} {binary} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def __enter__(self) -> Router:
        try:
            self._up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _up(self) -> None:
        client, router, container = self.names.values()
        for name in self.names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for near, here, there, ours, theirs in (
            ("client", client, self.outside, "192.0.2.2/24", "192.0.2.1/24"),
            ("container", container, "d1", "10.77.5.2/24", "10.77.5.1/24"),
        ):
            run("ip", "-n", router, "link", "add", there, "type", "veth", "peer", "name", near[:4], "netns", here)
            run("ip", "-n", here, "addr", "add", ours, "dev", near[:4])
            run("ip", "-n", router, "addr", "add", theirs, "dev", there)
            run("ip", "-n", here, "link", "set", near[:4], "up")
            run("ip", "-n", router, "link", "set", there, "up")
            run("ip", "-n", here, "route", "add", "default", "via", theirs.partition("/")[0])
        self.inside("router", "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def __exit__(self, *_: object) -> None:
        for name in self.names.values():
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)

    def inside(self, role: str, *command: str, text: str | None = None) -> str:
        return run(*self.entering(role), *command, text=text)

    def entering(self, role: str) -> tuple[str, ...]:
        """What goes before a command so that it runs in there."""
        return ("nsenter", f"--net=/run/netns/{self.names[role]}", *(self.there if role == "router" else ()))

    def iptables(self, *arguments: str) -> None:
        self.inside("router", self.variant, "-w", *arguments)

    def restore(self, text: str) -> None:
        self.inside("router", f"{self.variant}-restore", "--noflush", text=text)

    def rules(self) -> str:
        """Everything in the firewall but counters and the date."""
        saved = "".join(self.inside("router", f"{self.variant}-save", "-t", table) for table in ("filter", "nat"))
        lines = [re.sub(r"\[\d+:\d+\]", "", line) for line in saved.splitlines() if not line.startswith("#")]
        return "\n".join([*lines, self.inside("router", "nft", "list", "tables")])

    def reaches(self, role: str = "client", target: str = "10.77.5.2") -> bool:
        done = subprocess.run(
            ("nsenter", f"--net=/run/netns/{self.names[role]}", "ping", "-qc1", "-W1", target),
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


@contextmanager
def routing(variant: str, folder: Path, outside: str = "d0") -> Iterator[Router]:
    with _root() as there:
        if not there and shutil.which(variant) is None:
            pytest.skip(f"{variant} is not installed")
        with Router(f"tfw{os.getpid()}", folder, variant, outside, there) as router:
            yield router


@contextmanager
def _root() -> Iterator[tuple[str, ...]]:
    """How the root that was asked for is entered; () for this machine's own."""
    suite = os.environ.get("OVERLAY_FIREWALL_ROOT", "")
    if not suite:
        yield ()
        return
    process = subprocess.Popen(
        roots.inside(roots.build(suite), "sh", "-c", "echo; exec sleep 86400"), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n", "the root is there"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        yield (f"--target={children.read_text().split()[0]}", "--mount", "--pid")
    finally:
        process.kill()
        process.wait(30)
