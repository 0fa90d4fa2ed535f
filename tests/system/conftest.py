"""The installed agent beside the real systemd and the real Docker: one installation for all, one site a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.docker import missing_for_docker
from tests.support.site import Site, build_wheels, install, missing_for_installation, own_folder, site
from tests.support.systemd import missing_for_systemd

MakeSite = Callable[..., Site]

# Needs roots of other Debians, which take minutes to build: `make test-docker`, and cells of `make test-platforms`.
collect_ignore = [] if os.environ.get("OVERLAY_DOCKER_ROOTS") else ["test_docker_roots.py"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test, saying which capability is missing; with OVERLAY_REQUIRE_ALL=1 it fails instead."""
    if item.get_closest_marker("root") is None:
        return
    for missing in (missing_for_systemd(), missing_for_docker(), missing_for_installation(), _missing_etcd()):
        if missing is not None:
            complain = pytest.fail if os.environ.get("OVERLAY_REQUIRE_ALL") == "1" else pytest.skip
            complain(f"needs {missing}")


def _missing_etcd() -> str | None:
    return (
        None if shutil.which("etcd") and shutil.which("etcdctl") else "etcd (apt-get install etcd-server etcd-client)"
    )


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    with own_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def wheels(workspace: Path) -> Path:
    """The package and what it needs, as wheels; the only thing here that needs a package index."""
    target = workspace / "wheels"
    target.mkdir()
    build_wheels(target)
    return target


@pytest.fixture(scope="session")
def stage(workspace: Path, wheels: Path) -> Path:
    """What ``make install DESTDIR=…`` made."""
    target = workspace / "stage"
    install(target, wheels)
    return target


@pytest.fixture
def make_site(stage: Path) -> Iterator[MakeSite]:
    """Makes a site; it is removed, and proved to be gone, after the test."""
    with ExitStack() as stack:

        def make(nodes: int = 2, files: Mapping[str, str] | None = None) -> Site:
            return stack.enter_context(site(stage, nodes, files))

        yield make
