"""kubectl, of this machine or of folders that OVERLAY_KUBECTLS names, against ``overlay kubectl``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.etcd import do_without

LIMIT = 120.0
"""Seconds that one command may take; on an idle machine it is 1 to 2."""


def kubectls() -> list[str]:
    """The programs to test with: OVERLAY_KUBECTLS (separated by colons), else the one that is installed."""
    named = [each for each in os.environ.get("OVERLAY_KUBECTLS", "").split(":") if each]
    return named or ["kubectl"]


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Kubectl:
    """``overlay kubectl`` with one kubectl, on one etcd.

    Attributes:
        home: of the user who types.
    """

    program: str
    endpoint: str
    home: Path

    @classmethod
    def require(cls, program: str, endpoint: str, home: Path) -> Kubectl:
        """Skips the test where there is no such kubectl."""
        if shutil.which(program) is None:
            do_without(f"{program} (package kubernetes-client, from Debian 13 on kubectl)")
        return cls(program, endpoint, home)

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``kubectl ARGUMENTS``."""
        return [
            sys.executable, "-m", "overlay", "kubectl", "--etcd-endpoints", self.endpoint, "--kubectl", self.program,
            *arguments,
        ]  # fmt: skip

    def run(self, *arguments: str, given: str = "") -> Ran:
        """Runs ``kubectl ARGUMENTS`` with ``given`` on its standard input."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        done = subprocess.run(
            self.command(*arguments), input=given, capture_output=True, text=True, timeout=LIMIT, check=False,
            env={**environment, "HOME": str(self.home)},
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str, given: str = "") -> str:
        """What ``kubectl ARGUMENTS`` prints; it must succeed."""
        ran = self.run(*arguments, given=given)
        assert ran.status == 0, f"kubectl {' '.join(arguments)}: {ran}"
        return ran.out


def like(pattern: str, text: str) -> None:
    """``text`` has the lines of ``pattern``: ``…`` is any text within a line, and blanks are as wide as they like."""
    lines = [" +".join(map(_literal, line.split())) for line in pattern.strip("\n").splitlines()]
    assert re.fullmatch(r"[ \t]*\n".join(lines) + r"\s*", text), f"expected:\n{pattern}\nfound:\n{text}"


def _literal(word: str) -> str:
    return "[^\n]*".join(map(re.escape, word.split("…")))
