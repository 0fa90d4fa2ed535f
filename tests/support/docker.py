"""The real Docker on a node: an image made on the spot, and containers to send packets from."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from tests.support.systemd import Booted, wait_until

IMAGE = "busybox:overlay-test"

_BUSYBOX = "/bin/busybox"

_HTTP_LOG = "/tmp/httpd.log"


def missing_for_docker() -> str | None:
    """What this machine lacks for Docker's daemon; None where nothing is."""
    for program, package in (("dockerd", "docker.io"), ("docker", "docker.io"), ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            return f"{program} (apt-get install --no-install-recommends {package})"
    return None


@dataclass(frozen=True)
class Container:
    """A container that sleeps until something is run in it."""

    node: Booted
    name: str

    @property
    def address(self) -> IPv4Address:
        (settings,) = json.loads(self.node.run("docker", "inspect", self.name).stdout)
        return IPv4Address(settings["NetworkSettings"]["IPAddress"])

    @property
    def running(self) -> bool:
        done = self.node.run("docker", "inspect", "--format", "{{.State.Running}}", self.name, check=False)
        return done.stdout.strip() == "true"

    def run(self, *command: str, check: bool = True) -> str:
        return self.node.run("docker", "exec", self.name, *command, check=check).stdout

    def reaches(self, target: IPv4Address) -> bool:
        done = self.node.run("docker", "exec", self.name, "ping", "-c1", "-W1", str(target), check=False)
        return done.returncode == 0


def start_docker(node: Booted) -> None:
    """Starts the unit and makes the image. Where the agent is installed it is enabled: Docker's start waits for it."""
    if node.run("test", "-e", "/opt/overlay", check=False).returncode == 0:
        node.systemctl("enable", "overlay")
    node.systemctl("start", "docker")
    if node.run("docker", "image", "inspect", IMAGE, check=False).returncode != 0:
        script = f"""
        set -e
        root=$(mktemp -d)
        mkdir $root/bin $root/tmp $root/proc $root/etc
        cp {_BUSYBOX} $root/bin/busybox
        for tool in sh sleep ping httpd timeout wget md5sum dd cat; do ln -s busybox $root/bin/$tool; done
        tar -C $root -c . | docker import - {IMAGE}
        rm -rf $root
        """
        node.run("sh", "-c", script)


def start_container(node: Booted, name: str, *, restart: str = "no") -> Container:
    """Starts a container on Docker's default network."""
    node.run("docker", "run", "--detach", "--init", f"--restart={restart}", "--name", name, IMAGE, "sleep", "86400")
    return Container(node, name)


def bridge(node: Booted) -> IPv4Interface | None:
    """docker0's address; None while it has none."""
    done = node.run("ip", "-json", "-4", "address", "show", "docker0", check=False)
    addresses = [address for link in json.loads(done.stdout or "[]") for address in link.get("addr_info", ())]
    return IPv4Interface((addresses[0]["local"], addresses[0]["prefixlen"])) if addresses else None


def bridge_mtu(container: Container) -> int:
    """The MTU inside a container."""
    return int(container.run("cat", "/sys/class/net/eth0/mtu"))


def move_file(source: Container, target: Container, size: int) -> None:
    """Sends ``size`` random bytes over TCP (HTTP) from one container to another, and compares what arrived."""
    source.run("dd", "if=/dev/urandom", "of=/tmp/file", f"bs={size}", "count=1")
    sent = source.run("md5sum", "/tmp/file").split()[0]
    source.node.run("docker", "exec", "--detach", source.name, "sh", "-c", f"httpd -f -vv -p 80 -h /tmp 2>{_HTTP_LOG}")

    def delivered() -> bool:
        # Not wget's own -T: Debian's static busybox crashes at it.
        fetch = ("timeout", "5", "wget", "-q", "-O", "/tmp/received", f"http://{source.address}/file")
        target.run(*fetch, check=False)
        return target.run("md5sum", "/tmp/received", check=False).startswith(f"{sent} ")

    wait_until(delivered, 30, f"a file of {size} bytes from {source.name} to {target.name}")


def file_taken_by(source: Container) -> set[IPv4Address]:
    """From which addresses :func:`move_file`'s file was asked for, as its source saw it."""
    seen = re.findall(r"^\[(?:::ffff:)?([0-9.]+)\]", source.run("cat", _HTTP_LOG), re.MULTILINE)
    return set(map(IPv4Address, seen))
