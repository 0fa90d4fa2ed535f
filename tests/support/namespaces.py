"""A network namespace of a test's own, gone when the test is."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from overlay.lab.namespace import call_inside

T = TypeVar("T")


class Namespace:
    """One that exists: a command's words run in it, a function is called in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, text: str | None = None) -> str:
        """What a command prints; one that fails fails the test."""
        done = self.attempt(*command, text=text)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def attempt(self, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """The same for a command that may fail."""
        entered = ["nsenter", f"--net=/run/netns/{self.name}", *command]
        return subprocess.run(entered, input=text, capture_output=True, text=True, check=False)

    def batch(self, commands: str) -> None:
        """Lines of ``ip -batch``."""
        done = self.attempt("ip", "-batch", "-", text=commands)
        assert done.returncode == 0, f"{commands}\n{done.stderr}"

    def call(self, function: Callable[[], T]) -> T:
        """Calls ``function`` in a thread that is in the namespace."""
        return call_inside(self.name, function)


@contextmanager
def namespace(purpose: str = "t") -> Iterator[Namespace]:
    """A new one with nothing but lo, which is up."""
    name = f"ovtest-{purpose}-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
