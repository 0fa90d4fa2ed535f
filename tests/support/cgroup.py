"""A control group of a test's own, and processes in it: what stands for a node where nodes share a machine."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay.linux import cgroups

_PATIENCE = 30.0


@contextmanager
def cgroup(purpose: str = "t") -> Iterator[Path]:
    """A new one below the root; gone afterwards, with the processes in it."""
    made = cgroups.root() / f"ovtest-{purpose}-{uuid.uuid4().hex[:6]}"
    made.mkdir()
    try:
        yield made
    finally:
        (made / "cgroup.kill").write_text("1") if (made / "cgroup.kill").exists() else None
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                made.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def words_in(cgroup: Path, namespace: str | None, *command: str) -> list[str]:
    """A command line that runs ``command`` in both."""
    entering = [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]
    script = f'echo $$ > {cgroup}/cgroup.procs && exec "$@"'
    return ["sh", "-c", script, "sh", *entering, *command]


def run_in(cgroup: Path, namespace: str | None, *command: str, text: str = "") -> str:
    """What it prints; one that fails fails the test."""
    words = words_in(cgroup, namespace, *command)
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
