"""What tests in network namespaces share: a skipped test says what is missing, and labs that are gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlay.lab import bpffs, namespace
from overlay.lab.cluster import Lab
from overlay.lab.topology import LabSpec
from tests.support.etcd import Etcd
from tests.support.labs import MakeLab, need, need_programs


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests whose marker asks for what is not there; with OVERLAY_REQUIRE_ALL=1 they fail instead."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        need("root")
    if item.get_closest_marker("etcd"):
        need_programs("etcd", "etcdctl")


@pytest.fixture(scope="session", autouse=True)
def bpf_file_system() -> Iterator[None]:
    """The kernel datapath mounts it where it is missing; afterwards it is as it was, whoever has mounted it."""
    missing = os.geteuid() == 0 and not os.path.ismount(bpffs.MOUNT_POINT)
    yield
    if missing:
        bpffs.unmount()


@pytest.fixture
def make_lab(lab_name: str) -> Iterator[MakeLab]:
    """Makes a lab from the fields of a LabSpec; it is removed, and proved to be gone, after the test."""
    with ExitStack() as stack:
        yield lambda **fields: stack.enter_context(Lab.running(LabSpec(**{"name": lab_name, **fields})))
    assert namespace.existing(f"{lab_name}-") == []


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of one member on loopback."""
    with Etcd(tmp_path / "etcd") as cluster:
        yield cluster


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Etcd]:
    """One of three members."""
    with Etcd(tmp_path / "etcd", size=3) as cluster:
        yield cluster


@pytest.fixture
def lab_name() -> str:
    """A lab's name that no other test run on this machine has."""
    return f"t{os.getpid()}"
