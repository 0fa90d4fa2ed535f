"""A site: etcd and a few nodes on one underlay, each with a real systemd, the installed agent and Docker.

n1 172.31.0.1      n2 172.31.0.2          etcd 172.31.0.100
     │                  │                      │
     └──────────────────┴── bridge ────────────┘        (namespaces, links and etcd: the package's own lab)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from overlay.lab import namespace
from overlay.lab.cluster import Lab
from overlay.lab.topology import LabSpec
from tests.support.systemd import Booted, booted, wait_until

SOURCE = Path(__file__).resolve().parents[2]

PYTHON = "/usr/bin/python3"
"""The interpreter that an installation is built on: the service does not see one in a home directory."""

SETTINGS = "/etc/default/overlay"

RESYNC_SECONDS = 5
"""Default of ``--iptables-resync``."""

_FOLDERS = Path("/var/tmp")
"""Not /tmp: that is empty inside a booted node."""

_FOLDER_PREFIX = "overlay-test-"


@dataclass(frozen=True)
class Site:
    """A site that is up.

    Attributes:
        lab: its namespaces, links and etcd.
        nodes: its machines, n1 first.
    """

    lab: Lab
    nodes: tuple[Booted, ...]

    def etcdctl(self, *arguments: str, text: str | None = None) -> str:
        return self.lab.etcd.run("etcdctl", *arguments, text=text).stdout

    def leases(self) -> list[dict[str, object]]:
        """``overlay leases --json``, as run on the first node."""
        objects: list[dict[str, object]] = json.loads(overlay(self.nodes[0], "leases", "--json"))
        return objects


@contextmanager
def site(stage: Path | None, nodes: int = 2, files: Mapping[str, str] | None = None) -> Iterator[Site]:
    """A site without agents: their settings are in place, and ``systemctl start overlay`` starts one.

    Args:
        stage: an installation made with DESTDIR, on every node; None for nodes on which nothing of ours is installed.
        nodes: how many.
        files: for every node, content by absolute path.
    """
    name = f"s{os.getpid()}"
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        lab = stack.enter_context(Lab.running(LabSpec(name=name, nodes=nodes, pods=0, agents=False)))
        lab.start_etcd()
        lab.put_config()
        machines = []
        for node in lab.nodes:
            # As on a machine that has just been installed: no bridge, no forwarding; both are Docker's to make.
            node.run("ip", "link", "delete", "docker0", check=False)
            node.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
            own = {SETTINGS: settings(lab), **(files or {})}
            machines.append(
                stack.enter_context(
                    booted(node.namespace, namespace=node.namespace, folder=folder / node.name, stage=stage, files=own)
                )
            )
        yield Site(lab, tuple(machines))
    assert namespace.existing(f"{name}-") == []


@contextmanager
def own_folder() -> Iterator[Path]:
    """A directory that booted nodes see too; those of killed test runs are removed on the way.

    It is locked while it is in use: its owner may be in another process namespace, where nobody here sees it.
    """
    for left in _FOLDERS.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # BlockingIOError: in use
            os.close(_locked(left))
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=_FOLDERS))
    lock = _locked(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int:
    """The locked directory's descriptor. Raises BlockingIOError where another process has the lock."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened


def settings(lab: Lab, **more: str) -> str:
    """/etc/default/overlay for a node of ``lab``."""
    variables = {"FLANNELD_ETCD_ENDPOINTS": lab.spec.endpoint, "FLANNELD_IP_MASQ": "true", **more}
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def overlay(node: Booted, *arguments: str, check: bool = True) -> str:
    """Runs the installed command on a node, with the service's settings."""
    return node.run("overlay", "--settings", SETTINGS, *arguments, check=check).stdout


def subnet(node: Booted) -> IPv4Interface:
    """FLANNEL_SUBNET of subnet.env."""
    lines = node.read("/run/flannel/subnet.env").splitlines()
    return IPv4Interface(dict(line.split("=", 1) for line in lines)["FLANNEL_SUBNET"])


def wait_for_agent(node: Booted, timeout: float = 30) -> None:
    wait_until(lambda: node.active("overlay"), timeout, f"{node.name}: an active agent")


def homeless(folder: Path) -> dict[str, str]:
    """The environment of one whose home is not there (``folder``/home), with a ``rustc`` as rustup installs it, which
    makes a directory in its user's home whatever it is asked; pip asks it for its version."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "rustc").write_text('#!/bin/sh\nmkdir -p "$HOME/.rustup"\necho rustc 1.90.0\n')
    (programs / "rustc").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PIP_NO_CACHE_DIR"}
    return {**environment, "HOME": str(folder / "home"), "PATH": f"{programs}:{os.environ['PATH']}"}


def build_wheels(target: Path) -> None:
    """The package and all that it needs, as wheels for :data:`PYTHON`: from here on, no index is needed."""
    _run(str(SOURCE / "requirements/wheels.sh"), str(target), env={**homeless(target.parent), "PYTHON": PYTHON})
    shutil.copytree(SOURCE / "systemd", target / "systemd")


def build_release(target: Path, wheels: Path, version: str) -> None:
    """Wheels of the package as another ``version``, and of what it needs."""
    copy = target / "source"
    copy.mkdir(parents=True)
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(SOURCE / name, copy / name)
    shutil.copytree(SOURCE / "overlay", copy / "overlay", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy / "pyproject.toml", copy / "overlay/__init__.py"):
        lines = path.read_text().splitlines(keepends=True)
        replaced = [
            f'{line.split("=")[0]}= "{version}"\n' if line.startswith(("version =", "__version__ =")) else line
            for line in lines
        ]
        assert replaced != lines, f"{path} has no version"
        path.write_text("".join(replaced))
    shutil.copytree(SOURCE / "systemd", target / "systemd")
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("overlay-"):
            shutil.copy(wheel, target)
    pip = (sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation")
    _run(*pip, "--wheel-dir", str(target), str(copy))


def install(stage: Path, wheels: Path) -> None:
    """``make install`` into a directory, without an index. DESTDIR as people write it: relative, and with a slash."""
    spelling = f"{os.path.relpath(stage)}/"
    variables = {**homeless(stage.parent), "DESTDIR": spelling, "WHEELS": str(wheels), "PYTHON": PYTHON}
    _run("sh", str(SOURCE / "systemd/install.sh"), "install", env=variables)


def installer(
    node: Booted, action: str, wheels: Path, *variables: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """``make install`` or ``make uninstall`` on a node, without an index; ``variables`` as NAME=VALUE."""
    # From the copy beside the wheels: a checkout in /tmp does not exist in there.
    script = str(wheels / "systemd/install.sh")
    return node.run("env", f"WHEELS={wheels}", *variables, "sh", script, action, check=check, timeout=300)


def deploy(node: Booted, stage: Path) -> None:
    """Puts what was staged with DESTDIR on a node, as a package manager would: settings that are there stay."""
    node.run("cp", "--archive", "--no-clobber", f"{stage}/.", "/", timeout=120)
    node.systemctl("daemon-reload")


def _run(*command: str, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


def missing_for_installation() -> str | None:
    """What this machine lacks for ``make install``; None where nothing is."""
    done = subprocess.run([PYTHON, "-c", "import ensurepip, venv"], capture_output=True, check=False)
    if done.returncode != 0:
        return f"{PYTHON} with venv (apt-get install python3-venv)"
    return None
