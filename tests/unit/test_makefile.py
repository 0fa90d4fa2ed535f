"""What `make` installs of Debian's packages, with apt-get and dpkg-query that only take notes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).resolve().parents[2]


def installed(folder: Path, *programs: str) -> list[str]:
    """Arguments of ``apt-get install`` where no package is installed, and of all these programs are there alone."""
    scripts = {
        "dpkg-query": "exit 1",
        "apt-get": f'[ "$1" != install ] || printf "%s\\n" "$@" >{folder}/installed',
        **dict.fromkeys(programs, "exit 0"),
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    for tool in ("sh", "grep", "tail", "rm", "sed"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    make = [shutil.which("make") or "make", "-s", "-C", str(_SOURCE), "SHELL=/bin/sh", "test-packages"]
    subprocess.run(make, env={**os.environ, "PATH": str(folder)}, check=True, capture_output=True, timeout=60)
    return (folder / "installed").read_text().split()


def test_nothing_is_removed(tmp_path: Path) -> None:
    assert "--no-remove" in installed(tmp_path)


@pytest.mark.parametrize(
    ("program", "package"), [("dockerd", "docker.io"), ("etcd", "etcd-server"), ("etcdctl", "etcd-client")]
)
def test_a_program_that_is_there_is_used(tmp_path: Path, program: str, package: str) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    assert package in installed(tmp_path / "without")
    assert package not in installed(tmp_path / "with", program)
