"""One agent as a child process whose log a test can wait for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from overlay.lab.machine import Machine
from overlay.lab.process import poll

OVERLAY = str(Path(sys.executable).parent / "overlay")
PATIENCE = 30.0
"""Seconds: generous, since a machine that runs tests is busy; what is waited for takes well under three."""


def elsewhere(script: str) -> tuple[str, ...]:
    """A command line to be put before another's, which then sees what a shell script has mounted for it alone."""
    return ("unshare", "--mount", "sh", "-euc", f'{script}\nexec "$@"', "sh")


def without(*programs: str) -> tuple[str, ...]:
    """The same, for one for which these programs are not installed: what is in their place cannot be executed."""
    places = {os.path.realpath(found) for program in programs if (found := shutil.which(program)) is not None}
    return elsewhere("\n".join(f"mount --bind /dev/null {shlex.quote(place)}" for place in sorted(places)))


@dataclass
class Agent:
    """``overlay agent`` in a machine's namespace, with files of its own in ``directory``."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    @property
    def subnet_file(self) -> Path:
        return self.directory / "subnet.env"

    def says(self, text: str, *, times: int = 1) -> None:
        """Waits until the log has ``text``; fails with the whole log."""
        poll(lambda: self.log.count(text) >= times or self.process.poll() is not None, PATIENCE)
        assert self.log.count(text) >= times, f"the agent never said {text!r}, but:\n{self.log}"

    def ends(self) -> int:
        """Waits for its end; returns the exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent goes on:\n{self.log}") from None

    def terminate(self) -> int:
        self.process.terminate()
        return self.ends()


@contextmanager
def agent(
    machine: Machine,
    directory: Path,
    *arguments: str,
    before: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    defaults: bool = True,
) -> Iterator[Agent]:
    """Runs an agent; at the end it must be gone, and must never have shown a traceback.

    Args:
        before: a command line that the agent's is appended to.
        defaults: whether etcd's address, the interface and the files are given as well.
    """
    directory.mkdir(parents=True, exist_ok=True)
    given = (
        ("--etcd-endpoints=http://172.31.0.100:2379", "--iface=eth0", f"--subnet-file={directory}/subnet.env")
        if defaults
        else ()
    )
    command = [*before, OVERLAY, "agent", *given, f"--state-dir={directory}", *arguments]
    with (directory / "agent.log").open("ab") as log:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{machine.namespace}", *command], stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env=dict(env) if env is not None else None,
        )  # fmt: skip
    running = Agent(process, directory)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert "Traceback" not in running.log, running.log
