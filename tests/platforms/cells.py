"""The matrix: each cell is one platform and what has to be seen working on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.platforms import image, kernel, vm
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
    "tests/netns/test_kernel_underlays.py",
    "tests/netns/test_kernel_datapath.py",
    "tests/netns/test_kernel_proof.py",
    "tests/netns/test_netem.py",
    "tests/netns/test_causes.py",
    "tests/netns/test_agent.py",
    "tests/netns/test_cleanup.py",
)

# On cards, what crosses them; netem and the switch are no part of it.
_CARDS = ("tests/netns/test_every_packet.py -k 'kernel and pod-to-pod'",)

_IN_MACHINE = "python -m pytest -v -ra --maxfail=20 --durations=0 -p no:cacheprovider"

_ETCD = ("tests/contract", "tests/netns/test_etcd_faults.py")

_FRESH = "make demo && make check && .venv/bin/pytest -q tests/unit && .venv/bin/pytest -q tests/netns/test_agent.py"


@dataclass(frozen=True)
class Cell:
    """One square of the matrix.

    Attributes:
        name: what ``ONLY`` chooses by, for example ``kernel-6.1``.
        shows: in a few words, what is run there.
        run: does it; gets the log's path, returns the exit status.
        built: what it builds once in the cache, as patterns of paths there.
    """

    name: str
    shows: str
    run: Callable[[Path], int]
    built: tuple[str, ...]


class UnknownCellError(Exception):
    """No cell has such a name."""


def matrix() -> tuple[Cell, ...]:
    """Every cell."""
    return tuple(
        Cell(f"{kind}-{name}", shows, run(name), tuple(part.format(suites[name]) for part in ("suites/{}", *built)))
        for kind, suites, shows, run, built in _KINDS
        for name in suites
    )


def chosen(patterns: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells whose name fits one of the patterns (fnmatch(3)); all, where none is given.

    Raises:
        UnknownCellError: no name fits one of them.
    """
    cells = matrix()
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise UnknownCellError(f"no cell is called {pattern!r}: there are {names}; or a pattern, as 'kernel-*'")
    return tuple(cell for cell in cells if not patterns or any(fnmatch(cell.name, each) for each in patterns))


def on_kernel(
    version: str, job: str, log: Path, *, hardware: vm.Hardware = vm.PLAIN, timeout: float = 60 * _MINUTE
) -> int:
    """Runs a shell script in this checkout, with its environment's programs first, on an emulated machine.

    Returns:
        As :func:`tests.platforms.vm.run_in`.
    """
    suite = KERNELS[version]
    prepared = kernel.prepare(Suite(suite, CACHE / "suites" / suite), CACHE / "kernels" / suite)
    script = f"""
    export PATH={Path(sys.executable).parent}:$PATH PYTHONDONTWRITEBYTECODE=1 OVERLAY_REQUIRE_ALL=1
    cd {SOURCE}
    {job}
    """
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        layers = image.system(CACHE / "images"), image.checkout(SOURCE, Path(folder, "checkout.squashfs"))
        return vm.run_in(prepared, script, log, layers=layers, hardware=hardware, timeout=timeout)


def _on_kernel(version: str) -> Callable[[Path], int]:
    job = f"overlay lab demo && {_IN_MACHINE} {' '.join(_DATAPATHS)}"
    return lambda log: on_kernel(version, job, log)


def _on_virtio(version: str) -> Callable[[Path], int]:
    job = f"export OVERLAY_CARDS='eth0 eth1 eth2 eth3'; {_IN_MACHINE} {' '.join(_CARDS)}"
    return lambda log: on_kernel(version, job, log, hardware=vm.Hardware(cards=4))


def _with_docker(version: str) -> Callable[[Path], int]:
    return lambda log: _pytest(log, {"OVERLAY_DOCKER_ROOTS": DOCKERS[version]}, "tests/system/test_docker_roots.py")


def _with_etcd(version: str) -> Callable[[Path], int]:
    suite = ETCDS[version]

    def run(log: Path) -> int:
        folder = CACHE / "etcd" / suite
        if not folder.exists():
            archive = Suite(suite, CACHE / "suites" / suite)
            archive.update()
            for package in ("etcd-server", "etcd-client"):
                archive.unpack(package, folder)
        return _pytest(log, {"OVERLAY_ETCD": str(folder / "usr/bin")}, *_ETCD)

    return run


def _set_up(release: str) -> Callable[[Path], int]:
    words = ("sh", str(Path(__file__).with_name("fresh.sh")), SETUPS[release], "sh", "-c", _FRESH)
    return lambda log: _command(log, {"ROOTS": str(CACHE / "roots")}, *words)


_KINDS = (
    ("kernel", KERNELS, "demo; both datapaths, every packet; links of all kinds; netem; restarts; cleanup", _on_kernel,
     ("kernels/{}", "images")),
    ("virtio", KERNELS, "virtio-net cards with their offloads: every packet, native XDP, VLAN, bond", _on_virtio,
     ("kernels/{}", "images")),
    ("docker", DOCKERS, "containers of two nodes, networks apart, default-deny", _with_docker, ("roots/{}",)),
    ("etcd", ETCDS, "the store's contract, TLS, password, compaction, members lost", _with_etcd, ("etcd/{}",)),
    ("setup", SETUPS, "fresh clone, fresh system, no caches: demo, checks, agent", _set_up, ("roots/{}-*",)),
)  # fmt: skip
"""Prefix of the names, the suites by the rest of the name, what is run, and what is built for it in the cache."""


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
