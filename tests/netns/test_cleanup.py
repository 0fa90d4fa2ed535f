"""``overlay cleanup`` in a network namespace, on what an agent and others left there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


class Left:
    """A namespace with a TUN device of ours, a subnet file and state, and a file that is not ours."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.state, self.data = folder / "state", folder / "data"
        self.subnet_file = folder / "flannel" / "subnet.env"
        for directory in (self.state, self.data, self.subnet_file.parent):
            directory.mkdir()
        self.subnet_file.write_text("FLANNEL_SUBNET=10.0.5.1/24\n")
        (self.data / "lease.json").write_text("{}")
        (self.state / "precious").write_text("not ours")

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *command], capture_output=True, text=True, check=False
        )

    @property
    def command(self) -> list[str]:
        flags = [f"--subnet-file={self.subnet_file}", f"--state-dir={self.state}", f"--data-dir={self.data}"]
        return [sys.executable, "-m", "overlay", "cleanup", *flags]

    def cleanup(self) -> subprocess.CompletedProcess[str]:
        return self.inside(*self.command)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    name = f"tcl{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Left(name, tmp_path)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_all_of_ours_goes_and_nothing_else(left: Left) -> None:
    for command in (
        "ip tuntap add name flannel0 mode tun multi_queue",
        "ip address add 10.0.5.0/32 dev flannel0",
        "ip link set flannel0 up",
        "ip route add 10.0.0.0/16 dev flannel0",
        "ip link add other0 type bridge",
        "iptables -N FLANNEL-FWD",
        "iptables -A FORWARD -j FLANNEL-FWD",
        "iptables -A FORWARD -s 192.0.2.1 -j DROP",
    ):
        assert left.inside(*command.split()).returncode == 0, command
    done = left.cleanup()
    assert (done.returncode, done.stderr) == (0, "")
    links = left.inside("ip", "link").stdout
    assert "flannel0" not in links
    assert "other0" in links
    rules = left.inside("iptables", "-S").stdout
    assert "FLANNEL" not in rules
    assert "192.0.2.1" in rules
    assert not left.subnet_file.exists()
    assert not left.data.exists()
    assert [path.name for path in left.state.iterdir()] == ["precious"]
    assert "precious" not in left.cleanup().stdout


def test_a_device_that_is_no_tun_stays_and_the_rest_goes(left: Left) -> None:
    assert left.inside("ip", "link", "add", "flannel0", "type", "bridge").returncode == 0
    done = left.cleanup()
    assert done.returncode == 1
    assert done.stderr == "overlay cleanup: device: device flannel0: is a bridge interface, not ours\n"
    assert "flannel0" in left.inside("ip", "link").stdout
    assert not left.subnet_file.exists()


def test_another_agents_rules_and_device_stay(left: Left) -> None:
    for command in (
        "ip tuntap add name flannel0 mode tun multi_queue",
        "ip tuntap add name flannel1 mode tun multi_queue",
        "iptables -N FLANNEL-FWD",
        "iptables -A FORWARD -j FLANNEL-FWD",
        "iptables -N FLANNEL-FWD-flannel1",
        "iptables -A FORWARD -j FLANNEL-FWD-flannel1",
    ):
        assert left.inside(*command.split()).returncode == 0, command
    settings = (f"FLANNELD_SUBNET_FILE={left.subnet_file}", f"FLANNELD_STATE_DIR={left.state}")
    done = left.inside("env", *settings, "FLANNELD_DEVICE=flannel1", *left.command[:4])
    assert (done.returncode, done.stderr) == (0, "")
    links, rules = left.inside("ip", "link").stdout, left.inside("iptables", "-S").stdout
    assert "flannel0" in links
    assert "flannel1" not in links
    assert "-j FLANNEL-FWD\n" in rules
    assert "flannel1" not in rules
    assert not left.subnet_file.exists()


def test_a_reader_who_goes_away_does_not_end_it_half_way(left: Left) -> None:
    assert left.inside("ip", "tuntap", "add", "name", "flannel0", "mode", "tun", "multi_queue").returncode == 0
    done = left.inside("sh", "-c", 'exec 3>&1; { "$@"; echo ended >&3; } | true', "sh", *left.command)
    assert (done.stdout, done.stderr) == ("ended\n", "")
    assert "flannel0" not in left.inside("ip", "link").stdout
    assert not left.subnet_file.exists()


def test_without_the_right_to_change_the_network_nothing_is_touched(left: Left) -> None:
    done = left.inside("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *left.command)
    assert done.returncode == 1
    assert "run it as root, or with CAP_NET_ADMIN" in done.stderr
    assert left.subnet_file.exists()


def test_a_file_that_cannot_be_removed_keeps_no_other(left: Left) -> None:
    folder = left.subnet_file.parent
    read_only = f'mount --bind "{folder}" "{folder}" && mount -o remount,ro,bind "{folder}" && exec "$@"'
    done = left.inside("unshare", "--mount", "sh", "-c", read_only, "sh", *left.command)
    assert done.returncode == 1
    assert done.stderr == f"overlay cleanup: files: [Errno 30] Read-only file system: '{left.subnet_file}'\n"
    assert left.subnet_file.exists()
    assert not left.data.exists()


def test_links_and_mounts_are_not_ours(left: Left) -> None:
    """Files are: also the one that a link of the operator's names."""
    left.subnet_file.rename(left.state / "real.env")
    left.subnet_file.symlink_to(left.state / "real.env")
    (left.state / "precious").unlink()
    real = left.data.rename(left.data.with_name("real"))
    left.data.symlink_to(real)
    mounted = f'mount --bind "{left.state}" "{left.state}" && exec "$@"'
    done = left.inside("unshare", "--mount", "sh", "-c", mounted, "sh", *left.command)
    assert (done.returncode, done.stderr) == (0, "")
    assert left.subnet_file.is_symlink()
    assert left.data.is_symlink()
    assert list(left.state.iterdir()) == []
    assert list(real.iterdir()) == []
