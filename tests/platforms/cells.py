"""The matrix: each cell is one platform and what has to be seen working on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.platforms import kernel, vm
from tests.platforms.debian import Suite

SOURCE = Path(__file__).parents[2]

CACHE = Path(os.environ.get("OVERLAY_PLATFORMS", "/var/cache/overlay-platforms"))
"""Kernels, roots, package lists and logs; what is there is used again."""

KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "sid"}
"""The suite of Debian that has each kernel."""

DOCKERS = {"26": "trixie", "28": "forky"}
"""The suite that has each Docker. Debian 12's own, 20.10, is what ``make test`` runs there."""

ETCDS = {"3.5": "trixie"}
"""The suite that has each etcd; 3.4 is Debian 12's."""

SETUPS = {"debian-12": "bookworm", "debian-13": "trixie"}
"""The suite of each release that a fresh clone is set up on."""

_MINUTE = 60.0

# On any kernel: the demo, then all that a socket can produce by both datapaths with vxlan as the oracle, what proves a
# peer, every kind of link below, upgrades and restarts under traffic, and that all of it can be taken away again.
_DATAPATHS = (
    "tests/netns/test_every_packet.py",
    "tests/netns/test_kernel_proof.py",
    "tests/netns/test_kernel_underlays.py",
    "tests/netns/test_kernel_datapath.py",
    "tests/netns/test_cleanup.py",
)

_ETCD = ("tests/contract", "tests/netns/test_etcd_faults.py")

_FRESH = "make demo && make check && .venv/bin/pytest -q tests/unit && .venv/bin/pytest -q tests/netns/test_agent.py"


@dataclass(frozen=True)
class Cell:
    """One square of the matrix.

    Attributes:
        name: what ``ONLY`` chooses by, for example ``kernel-6.1``.
        shows: in a few words, what is run there.
        run: does it; gets the log's path, returns the exit status.
    """

    name: str
    shows: str
    run: Callable[[Path], int]


def matrix() -> tuple[Cell, ...]:
    """Every cell."""
    return (
        *(
            Cell(f"kernel-{version}", "demo; both datapaths, every packet; restarts; cleanup", _on_kernel(suite))
            for version, suite in KERNELS.items()
        ),
        *(
            Cell(f"docker-{version}", "containers of two nodes, networks apart, default-deny", _with_docker(suite))
            for version, suite in DOCKERS.items()
        ),
        *(
            Cell(f"etcd-{version}", "the store's contract, TLS, password, compaction, members lost", _with_etcd(suite))
            for version, suite in ETCDS.items()
        ),
        *(
            Cell(f"setup-{release}", "fresh clone, fresh system, no caches: demo, checks, agent", _set_up(suite))
            for release, suite in SETUPS.items()
        ),
    )


def chosen(patterns: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells whose name fits one of the patterns (fnmatch(3)); all, where none is given."""
    return tuple(cell for cell in matrix() if not patterns or any(fnmatch(cell.name, each) for each in patterns))


def _on_kernel(suite: str) -> Callable[[Path], int]:
    python = Path(sys.executable)
    job = f"""
    export PATH={python.parent}:$PATH
    overlay lab demo && {python} -m pytest -v -ra --maxfail=20 -p no:cacheprovider {" ".join(_DATAPATHS)}
    """

    def run(log: Path) -> int:
        prepared = kernel.prepare(Suite(suite, CACHE / "suites" / suite), CACHE / "kernels" / suite)
        with vm.packed(vm.hot(SOURCE), log.parent) as images:
            return vm.run_in(prepared, job, log, images=images, timeout=60 * _MINUTE)

    return run


def _with_docker(suite: str) -> Callable[[Path], int]:
    return lambda log: _pytest(log, {"OVERLAY_DOCKER_ROOTS": suite}, "tests/system/test_docker_roots.py")


def _with_etcd(suite: str) -> Callable[[Path], int]:
    def run(log: Path) -> int:
        folder = CACHE / "etcd" / suite
        if not folder.exists():
            archive = Suite(suite, CACHE / "suites" / suite)
            archive.update()
            for package in ("etcd-server", "etcd-client"):
                archive.unpack(package, folder)
        return _pytest(log, {"OVERLAY_ETCD": str(folder / "usr/bin")}, *_ETCD)

    return run


def _set_up(suite: str) -> Callable[[Path], int]:
    script = Path(__file__).with_name("fresh.sh")
    return lambda log: _command(log, {"ROOTS": str(CACHE / "roots")}, "sh", str(script), suite, "sh", "-c", _FRESH)


def _pytest(log: Path, environment: Mapping[str, str], *tests: str) -> int:
    needed = {"OVERLAY_REQUIRE_ALL": "1", **environment}
    return _command(log, needed, sys.executable, "-m", "pytest", "-v", "-ra", "-p", "no:cacheprovider", *tests)


def _command(log: Path, environment: Mapping[str, str], *words: str) -> int:
    """Runs a command with its output in the log; its exit status, 124 where it did not end in an hour."""
    with log.open("wb") as out:
        try:
            return subprocess.run(
                words, cwd=SOURCE, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, timeout=60 * _MINUTE, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124
