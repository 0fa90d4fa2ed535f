"""What `make` installs of Debian's packages, with apt and dpkg-query that only take notes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).resolve().parents[2]


def installed(folder: Path, *programs: str, unknown: str = "none") -> list[str]:
    """Arguments of ``apt-get install`` where no package is installed, and of the programs these are there alone.

    Args:
        folder: for what takes their place.
        programs: that are there.
        unknown: a package that this Debian does not have.
    """
    scripts = {
        "dpkg-query": "exit 1",
        "apt-get": f'[ "$1" != install ] || printf "%s\\n" "$@" >{folder}/installed',
        "apt-cache": f'[ "$2" != {unknown} ]',
        **dict.fromkeys(programs, "exit 0"),
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    for tool in ("sh", "grep", "tail", "rm", "tr", "mktemp"):
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


@pytest.mark.parametrize(("unknown", "package"), [("none", "docker-cli"), ("docker-cli", "docker.io")])
def test_a_package_that_only_some_releases_have(tmp_path: Path, unknown: str, package: str) -> None:
    """Docker's client is in docker.io until Debian 12, and beside it from Debian 13 on."""
    assert package in installed(tmp_path, "dockerd", unknown=unknown)


def home_in_recipes(home: str) -> str:
    """HOME as what make runs has it."""
    make = [shutil.which("make") or "make", "-s", "-C", str(_SOURCE), "--eval=tell:;@echo $$HOME", "tell"]
    told = subprocess.run(make, env={**os.environ, "HOME": home}, check=True, capture_output=True, timeout=60)
    return told.stdout.decode().strip()


def test_a_home_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    """pip, and a rustup's rustc which it asks, would make it; in the virtual environment both may write."""
    assert home_in_recipes(str(tmp_path)) == str(tmp_path)
    assert home_in_recipes(str(tmp_path / "missing")) == str(_SOURCE / ".venv")
    assert home_in_recipes("") == ""
