"""The matrix: each cell is one platform and what has to be seen working on it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from tests.platforms import image, kernel, vm
from tests.platforms.debian import Suite
from tests.support import earlier, programs

SOURCE = Path(__file__).parents[2]

CACHE = Path(os.environ.get("OVERLAY_PLATFORMS", "/var/cache/overlay-platforms"))
"""Kernels, roots, package lists and logs; what is there is used again."""

KERNELS = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "sid"}
"""The suite of Debian that has each kernel."""

BALANCERS = {"6.12": "trixie"}
"""Of those, the kernels on which Services by IPVS are tried."""

DOCKERS = {"26": "trixie", "28": "forky"}
"""The suite that has each Docker. Debian 12's own, 20.10, is what ``make test`` runs there."""

ETCDS = {"3.5": "trixie"}
"""The suite that has each etcd; 3.4 is Debian 12's."""

KUBECTLS = {"1.20": "bookworm", "1.32": "trixie", "newest": "sid"}
"""The suite that has each kubectl."""

_KUBECTL_PACKAGES = {"bookworm": "kubernetes-client"}
"""Where kubectl is in another package than in its own."""

FIREWALLS = {"1.1.3": "trixie", "newest": "forky"}
"""The suite that has each nft, with the iptables of its time; 1.0.6 is Debian 12's."""

SETUPS = {"debian-12": "bookworm", "debian-13": "trixie"}
"""The suite of each release that a fresh clone is set up on."""

PACKAGES = {"12": "bookworm", "13": "trixie"}
"""The suite of each release that the Debian package is made and installed on."""

_SUITES = {
    "kernel": KERNELS,
    "virtio": KERNELS,
    "services": BALANCERS,
    "docker": DOCKERS,
    "nft": FIREWALLS,
    "etcd": ETCDS,
    "kubectl": KUBECTLS,
    "setup": SETUPS,
    "package": PACKAGES,
    "whole": SETUPS,
}

_ON_REQUEST = ("whole",)
"""Kinds that take longer than all the others together: they are run where they are named."""

_SHOWS = {
    "kernel": "demo; both datapaths, every packet; links of all kinds; netem; restarts, an earlier version; cleanup",
    "virtio": "virtio-net cards with their offloads: every packet, native XDP, VLAN, bond",
    "services": "Services in proxy mode ipvs: every address from everywhere, schedulers, what others break",
    "docker": "README's page as it stands; containers of two nodes, networks apart, default-deny",
    "nft": "rulesets of others, by both variants of iptables and by nftables",
    "etcd": "the store's contract, TLS, password, compaction, members lost",
    "kubectl": "every command of the table, and a session",
    "setup": "fresh clone, fresh system, no caches: demo, checks, agent",
    "package": "the Debian package: made, then installed, removed and purged where there is no index",
    "whole": "fresh clone, fresh system, no caches: demo, and the whole of make test",
}

_BUILT = {
    "kernel": ("kernels/{}", "images", "suites/{}"),
    "virtio": ("kernels/{}", "images", "suites/{}"),
    "services": ("kernels/{}", "images", "suites/{}"),
    "docker": ("roots/{}",),
    "nft": ("roots/{}",),
    "etcd": ("etcd/{}", "suites/{}"),
    "kubectl": ("kubectl/{}", "suites/{}"),
    "setup": ("roots/{}-*",),
    "package": ("roots/{}-*",),
    "whole": ("roots/{}-*",),
}
"""By the suite, as patterns of paths in the cache."""

_MINUTE = 60.0

_EARLIER = Path("/opt/earlier")
"""Where an emulated machine has the earlier version's tree."""

# What depends on the kernel, the most telling first: all that a socket can produce by both datapaths, with vxlan as the
# oracle; FOU; every kind of link below, path MTU and who is believed about it, what others attach; GRO, fragments,
# nothing lost over kills and upgrades; bad networks; datagrams that are joined; and that all of it can be taken away
# again. Where a kernel makes no difference (more workers, a third MTU, the other way round) `make test` is enough.
_WAYS = "test_what_vxlan_carries_we_carry"
_ODD = "test_what_odd_links_carry_of_vxlan_they_carry_of_us"
_VERSIONS = "test_what_vxlan_carries_we_carry_between_versions_and_to_who_proves_nothing"
_TESTS = {
    "test_every_packet": (
        *(f"{_WAYS}[kernel to kernel-{way}]" for way in ("pod to pod", "node to pod", "pod to node", "node to node")),
        *(f"{_WAYS}[kernel to userspace-{way}]" for way in ("pod to pod", "node to node")),
        *(f"{_WAYS}[userspace to kernel-{way}]" for way in ("pod to pod", "node to node")),
        *(f"{_WAYS}[userspace to userspace-{way}]" for way in ("pod to pod", "node to node")),
        *(
            f"{_ODD}[{link}-{pair}-pod to pod]"
            for link in ("without checksum offload", "with VID 0", "in a VLAN", "with GRO, and FOU")
            for pair in ("kernel to kernel", "userspace to userspace")
        ),
        *(f"{_VERSIONS}[{pair}-pod to pod]" for pair in ("one that proves nobody to ours", "older to ours")),
    ),
    "test_fou": ("",),
    "test_kernel_underlays": (
        "test_kind_of_underlay",
        "test_packets_of_a_vlan_are_not_taken_for_the_interface_below",
        "test_a_router_with_a_smaller_mtu",
        "test_an_older_ingress_qdisc_stays",
        "test_an_xdp_firewall_stays_in_front_of_us",
    ),
    "test_kernel_datapath": (
        "test_probe_says_yes",
        "test_packets_stay_in_the_kernel",
        "test_every_size_passes",
        "test_tcp_both_ways_and_the_gro_stage",
        "test_what_the_programs_leave_alone_is_answered_by_the_slow_path",
        "test_fragmented_outer_datagrams_arrive",
        "test_nothing_is_lost_when_agents_are_killed_restarted_and_upgraded",
    ),
    "test_forged_icmp": (
        "test_a_stranger_who_guesses_is_not_believed[552-kernel]",
        "test_a_stranger_who_guesses_is_not_believed[552-userspace]",
        "test_what_the_kernel_noted_by_another_socket_does_not_slow_the_tunnel",
        "test_a_router_on_the_way_is_believed_also_while_a_stranger_forges[kernel]",
        "test_a_router_on_the_way_is_believed_also_while_a_stranger_forges[userspace]",
        "test_an_mtu_of_the_nodes_own_route_counts[kernel]",
    ),
    "test_kernel_proof": ("test_one_way_datagrams_reach_a_peer_that_goes_to_userspace_at_once",),
    "test_netem": (
        *(f"test_every_byte_arrives[kernel-{fault}]" for fault in ("delay and reordering", "loss and duplicates")),
        "test_loss_is_neither_hidden_nor_made_worse[kernel]",
    ),
    "test_causes": (
        "test_datagrams_that_the_interface_joins_before_our_program_are_cut_again",
        "test_datagrams_that_the_interface_joins_are_told_where_nothing_can_cut_them",
        "test_a_learnt_path_mtu_is_told",
    ),
    "test_agent": ("test_two_nodes_lease_tunnel_and_survive_a_kill[kernel]",),
    "test_upgrade": ("",),
    "test_endurance": ("",),
    "test_cleanup": ("test_all_of_ours_goes_and_nothing_else",),
}

# Between cards, what crosses them: finished and unfinished packets, offloads, XDP in the driver, tags.
_TESTS_OF_CARDS = {
    "test_every_packet": (
        "test_what_vxlan_carries_we_carry[kernel to kernel-pod to pod]",
        "test_what_vxlan_carries_we_carry[userspace to kernel-pod to pod]",
    ),
    "test_kernel_underlays": (
        "test_an_xdp_firewall_stays_in_front_of_us[native]",
        "test_kind_of_underlay[vlan]",
        "test_kind_of_underlay[bond]",
    ),
    "test_kernel_datapath": ("test_tcp_both_ways_and_the_gro_stage",),
    "test_fou": ("test_trains_go_by_fou_and_single_packets_do_not", "test_connection_tracking_is_no_obstacle"),
}

# All that is in every proxy mode, in the one that needs ip_vs; and what is its own.
_TESTS_OF_IPVS = {"test_services": ("",), "test_services_ipvs": ("",)}

_ETCD = ("tests/contract", "tests/netns/test_etcd_faults.py")

_DOCKER = ("tests/system/test_docker_roots.py", "tests/system/test_readme.py")

_FIREWALL = ("tests/netns/test_foreign_firewalls.py", "tests/netns/test_firewall.py")

_WHOLE = "make demo && OVERLAY_REQUIRE_ALL=1 make test"

_FRESH = "make demo && make check && .venv/bin/pytest -q tests/unit && .venv/bin/pytest -q tests/netns/test_agent.py"


@dataclass(frozen=True)
class Cell:
    """One square of the matrix.

    Attributes:
        name: what ``ONLY`` chooses by, for example ``kernel-6.1``.
        shows: in a few words, what is run there.
        run: does it; gets the log's path, returns the exit status.
        built: what it builds once in the cache, as patterns of paths there.
        emulated: whether it runs on a machine of its own; else on this one, where two would meet.
        on_request: whether it is run only where a pattern names it.
    """

    name: str
    shows: str
    run: Callable[[Path], int]
    built: tuple[str, ...]
    emulated: bool
    on_request: bool = False


Starter = Callable[[str], Callable[[Path], int]]
"""From the rest of a cell's name to what runs it."""


class UnknownCellError(Exception):
    """No cell has such a name."""


def matrix(patch: Path | None = None) -> tuple[Cell, ...]:
    """Every cell; with a patch, those on emulated machines, which find this checkout changed by it."""
    emulated: Mapping[str, Starter] = {
        "kernel": partial(_on_kernel, patch=patch),
        "virtio": partial(_on_virtio, patch=patch),
        "services": partial(_with_ipvs, patch=patch),
    }
    others: Mapping[str, Starter] = {
        "docker": _with_docker,
        "nft": _with_firewall,
        "etcd": _with_etcd,
        "kubectl": _with_kubectl,
        "setup": partial(_set_up, command=_FRESH),
        "package": _package,
        "whole": partial(_set_up, command=_WHOLE),
    }
    return tuple(
        Cell(
            f"{kind}-{name}",
            _SHOWS[kind],
            run(name),
            tuple(part.format(suite) for part in _BUILT[kind]),
            emulated=kind in emulated,
            on_request=kind in _ON_REQUEST,
        )
        for kind, run in {**emulated, **(others if patch is None else {})}.items()
        for name, suite in _SUITES[kind].items()
    )


def chosen(patterns: tuple[str, ...], patch: Path | None = None) -> tuple[Cell, ...]:
    """The cells of :func:`matrix` whose name fits one of the patterns (fnmatch(3)); where none is given, all but those
    on request.

    Raises:
        UnknownCellError: no name fits one of them.
    """
    cells = matrix(patch)
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise UnknownCellError(f"no cell is called {pattern!r}: there are {names}; or a pattern, as 'kernel-*'")
    if not patterns:
        return tuple(cell for cell in cells if not cell.on_request)
    return tuple(cell for cell in cells if any(fnmatch(cell.name, each) for each in patterns))


def on_kernel(
    version: str,
    job: str,
    log: Path,
    *,
    patch: Path | None = None,
    hardware: vm.Hardware = vm.PLAIN,
    timeout: float = 60 * _MINUTE,
) -> int:
    """Runs a shell script in this checkout, with its environment's programs first, on an emulated machine.

    Returns:
        As :func:`tests.platforms.vm.run_in`.
    """
    suite = KERNELS[version]
    prepared = kernel.prepare(Suite(suite, CACHE / "suites" / suite), CACHE / "kernels" / suite)
    script = f"""
    export PATH={Path(sys.executable).parent}:$PATH PYTHONDONTWRITEBYTECODE=1 OVERLAY_REQUIRE_ALL=1
    [ ! -d {_EARLIER} ] || export {earlier.PLACE}={_EARLIER}
    cd {SOURCE}
    {job}
    """
    programs.make_beforehand()
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        layers = [image.system(CACHE / "images"), image.checkout(SOURCE, Path(folder, "checkout.squashfs"))]
        if (former := image.earlier(Path(folder, "earlier.squashfs"), _EARLIER)) is not None:
            layers.append(former)
        if patch is not None:
            layers.append(image.patched(SOURCE, patch, Path(folder, "patched.squashfs")))
        return vm.run_in(prepared, script, log, layers=layers, hardware=hardware, timeout=timeout)


def _on_kernel(version: str, patch: Path | None) -> Callable[[Path], int]:
    job = f"overlay lab demo && {_pytest_words(_TESTS, patch)}"
    return lambda log: _nothing_skipped(on_kernel(version, job, log, patch=patch), log)


def _on_virtio(version: str, patch: Path | None) -> Callable[[Path], int]:
    job = f"export OVERLAY_CARDS='eth0 eth1 eth2 eth3'; {_pytest_words(_TESTS_OF_CARDS, patch)}"
    cards = vm.Hardware(cards=4)
    return lambda log: _nothing_skipped(on_kernel(version, job, log, patch=patch, hardware=cards), log)


def _with_ipvs(version: str, patch: Path | None) -> Callable[[Path], int]:
    job = f"modprobe br_netfilter && {_pytest_words(_TESTS_OF_IPVS, patch)} -k ipvs"
    return lambda log: _nothing_skipped(on_kernel(version, job, log, patch=patch), log)


def _nothing_skipped(status: int, log: Path) -> int:
    """Debian's kernels have all that the tests ask for: one that skips there has a wrong idea of what is missing."""
    if status == 0 and re.search(r"\b\d+ skipped\b", log.read_text(errors="replace")):
        with log.open("a") as out:
            out.write("a test was skipped, and none may be here\n")
        return 1
    return status


def _pytest_words(tests: Mapping[str, tuple[str, ...]], patch: Path | None) -> str:
    """The command line. Of a patched checkout the first failure is all that is asked for."""
    ids = [f"tests/netns/{file}.py{test and f'::{test}'}" for file, names in tests.items() for test in names]
    failures = 20 if patch is None else 1
    plugins = ("-p", "no:cacheprovider", "-p", "tests.platforms.costs")
    return shlex.join(["python", "-m", "pytest", "-v", "-ra", f"--maxfail={failures}", *plugins, *ids])


def _with_docker(version: str) -> Callable[[Path], int]:
    return lambda log: _pytest(log, {"OVERLAY_DOCKER_ROOTS": DOCKERS[version]}, *_DOCKER)


def _with_firewall(version: str) -> Callable[[Path], int]:
    environment = {"OVERLAY_FIREWALL_ROOT": FIREWALLS[version], "OVERLAY_ALL_FIREWALLS": "1"}
    return lambda log: _pytest(log, environment, *_FIREWALL)


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


def _with_kubectl(version: str) -> Callable[[Path], int]:
    suite = KUBECTLS[version]

    def run(log: Path) -> int:
        folder = CACHE / "kubectl" / suite
        if not folder.exists():
            archive = Suite(suite, CACHE / "suites" / suite)
            archive.update()
            archive.unpack(_KUBECTL_PACKAGES.get(suite, "kubectl"), folder)
        return _pytest(log, {"OVERLAY_KUBECTLS": str(folder / "usr/bin/kubectl")}, "tests/system/test_kubectl.py")

    return run


def _set_up(release: str, command: str) -> Callable[[Path], int]:
    words = ("sh", str(Path(__file__).with_name("fresh.sh")), SETUPS[release], "sh", "-c", command)
    return lambda log: _command(log, {}, *words)


def _package(release: str) -> Callable[[Path], int]:
    words = ("sh", str(Path(__file__).with_name("deb.sh")), PACKAGES[release])
    return lambda log: _command(log, {}, *words)


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
