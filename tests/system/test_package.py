"""The Debian package on a node with the real dpkg and systemd: installed, used, removed, purged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import SETTINGS, SOURCE, Site, overlay, settings, site, subnet
from tests.support.systemd import Booted

pytestmark = pytest.mark.root

FILES = ("/opt/overlay", "/usr/bin/overlay", "/usr/lib/overlay", "/usr/lib/systemd/system/docker.service.d")

STATE = ("/var/lib/overlay", "/var/lib/private/overlay", "/run/overlay", "/run/flannel", "/sys/fs/bpf/overlay")


@pytest.fixture(scope="module")
def package(workspace: Path, wheels: Path) -> Path:
    environment = {**os.environ, "PYTHON": sys.executable, "SOURCE_DATE_EPOCH": "1700000000"}
    command = ["sh", str(SOURCE / "systemd/package/deb.sh"), str(workspace), str(wheels)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = workspace.glob("overlay_*.deb")
    return made


@pytest.fixture
def bare() -> Iterator[Site]:
    """A node on which nothing of ours is installed."""
    with site(None, nodes=1) as made:
        yield made


def present(node: Booted, paths: tuple[str, ...]) -> list[str]:
    return [path for path in paths if node.run("test", "-e", path, check=False).returncode == 0]


def test_the_package_from_installation_to_purge(bare: Site, package: Path) -> None:
    (node,) = bare.nodes
    node.run("rm", SETTINGS)
    node.run("dpkg", "--install", str(package), timeout=300)
    assert present(node, FILES) == list(FILES)
    assert node.run("dpkg", "--verify", "overlay").stdout == ""
    own = ("overlay.service", "overlay-docker.path", "overlay-services.service", "overlay-api.service")
    done = node.run("systemd-analyze", "verify", *own, "docker.service")
    assert done.stdout + done.stderr == ""
    # Installed is not enabled: Docker's start is what it was.
    assert node.systemctl("is-enabled", "overlay", check=False) == "disabled"
    assert "overlay.service" not in node.show("docker", "Wants")

    node.write(SETTINGS, settings(bare.lab))
    node.systemctl("enable", "--now", "overlay")
    node.systemctl("enable", "--now", "overlay-services", "overlay-api")
    agent, before = node.main_pid("overlay"), subnet(node)
    # The only step of an upgrade that is not an installation again, as dpkg calls it.
    node.run("/var/lib/dpkg/info/overlay.prerm", "upgrade", "99.0")
    assert node.main_pid("overlay") == agent
    assert subnet(node) == before

    # The tool stays until it has cleaned up: without it nobody could.
    node.write(SETTINGS, "FLANNELD_DEVICE='no device'\n")
    refused = node.run("dpkg", "--remove", "overlay", check=False, timeout=300)
    assert refused.returncode != 0
    assert "no device" in refused.stderr
    assert overlay(node, "--version").startswith("overlay ")

    node.write(SETTINGS, settings(bare.lab))
    node.run("dpkg", "--remove", "overlay")
    assert present(node, FILES + STATE) == []
    assert node.show("overlay", "LoadState") == "not-found"
    assert node.run("find", "/etc/systemd/system", "-name", "overlay*").stdout == ""
    assert "flannel0" not in node.run("ip", "link").stdout
    assert "FLANNEL" not in node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout
    assert node.read(SETTINGS) == settings(bare.lab)
    node.run("dpkg", "--purge", "overlay")
    assert present(node, (SETTINGS,)) == []


@pytest.mark.usefixtures("stage")
def test_a_home_that_is_not_there_is_not_made(workspace: Path) -> None:
    """Wheels and installation were made by one whose home is missing, as a service's or nobody's may be."""
    assert (workspace / "programs/rustc").exists(), "or this shows nothing"
    assert not (workspace / "home").exists()
