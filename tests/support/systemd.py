"""A node that boots the real systemd, in namespaces of its own, on a copy-on-write view of this machine or of
another Debian's root.

What it mounts, starts and writes is in its namespaces and ends with them, and those end with the test run, even where
that is killed. Outside it has a folder and a group in each cgroup hierarchy, which :func:`booted` removes; a later run
removes the groups that a killed one left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")

_BOOT = Path(__file__).with_name("boot.sh")
_BOOT_SECONDS = 60.0

_GROUP_PREFIX = "overlay-test-"
"""Of cgroups' names."""

_MASKED = (
    # What belongs to the machine's hardware and clock, and what would only cost time.
    "systemd-sysctl.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-timesyncd.service",
    "systemd-pstore.service",
    "systemd-logind.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "getty.target",
    "ssh.service",
    "cron.service",
)

Condition = Callable[[], bool]


def wait_until(condition: Condition, timeout: float, what: str) -> None:
    """Waits for a condition; fails the test, naming it, when it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.05)


@dataclass(frozen=True)
class Booted:
    """A systemd that has booted.

    Attributes:
        name: its host name and the prefix of all that it has outside.
        process: ``unshare``, whose only child is systemd; its end is the end of all inside.
        pid: systemd's process id as seen from here.
        folder: of its own, outside.
        groups: its cgroups.
    """

    name: str
    process: subprocess.Popen[bytes]
    pid: int
    folder: Path
    groups: tuple[Path, ...]

    def run(
        self, *command: str, check: bool = True, text: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside."""
        done = subprocess.run(
            self.inside(*command), input=text, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def inside(self, *command: str) -> list[str]:
        """The command line by which a command runs inside: all namespaces, and the environment of a login."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", f"--target={self.pid}", "-m", "-p", "-n", "-u", "-i", "-C", "env", "-i", path, *command]

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 300) -> str:
        return self.run("systemctl", *arguments, check=check, timeout=timeout).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "--property", name, unit)

    def active(self, unit: str) -> bool:
        return self.show(unit, "ActiveState") == "active"

    def main_pid(self, unit: str) -> int:
        """The unit's main process, as seen inside; 0 for none."""
        return int(self.show(unit, "MainPID"))

    def kill(self, pid: int, number: signal.Signals) -> None:
        self.run("kill", f"-{number.value}", str(pid))

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def write(self, path: str, content: str) -> None:
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}", text=content)

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, check=False).stdout


def missing_for_systemd() -> str | None:
    """What this machine lacks for a systemd in namespaces; None where nothing is."""
    if os.geteuid() != 0:
        return "root"
    if not SYSTEMD.exists():
        return "systemd (apt-get install systemd)"
    if not Path("/run/dbus").exists() and shutil.which("dbus-daemon") is None:
        return "dbus (apt-get install dbus)"
    if not any(
        " overlay" in line or "\toverlay" in line for line in Path("/proc/filesystems").read_text().splitlines()
    ):
        return "the overlay file system"
    return None


@contextmanager
def booted(
    name: str,
    *,
    namespace: str,
    folder: Path,
    stage: Path | None = None,
    files: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Iterator[Booted]:
    """Boots a systemd in a network namespace.

    Args:
        name: for its host name and what it has outside; unique on this machine.
        namespace: a name under /run/netns.
        folder: made for it, and removed with it.
        stage: an installation made with DESTDIR, to lie over this machine's root.
        files: content by absolute path, to lie over that.
        root: whose systemd and files it has; by default this machine's.
    """
    groups: tuple[Path, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    folder.mkdir(parents=True)
    try:
        own = _own_layer(folder / "layer", name, files or {})
        (folder / "root").mkdir()
        groups = tuple(_make_groups(name))
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        command = [
            *("nsenter", f"--net=/run/netns/{namespace}"),
            *("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--cgroup"),
            *("sh", str(_BOOT), str(folder / "root"), str(own), str(stage or ""), str(root)),
        ]
        with (folder / "boot.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-ec", f'{join}exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        machine = Booted(name, process, _child_of(process, folder), folder, groups)
        wait_until(lambda: _is_up(machine), _BOOT_SECONDS, f"{name}: boot")
        yield machine
    finally:
        if process is not None:
            process.kill()  # unshare --kill-child: systemd follows, and with it all of its process namespace
            process.wait(30)
        for group in groups:
            _remove_group(group)
        shutil.rmtree(folder, ignore_errors=True)


def _own_layer(layer: Path, name: str, files: Mapping[str, str]) -> Path:
    units = layer / "etc/systemd/system"
    units.mkdir(parents=True)
    # Opaque: whatever this machine has enabled does not run in there.
    os.setxattr(units, "trusted.overlay.opaque", b"y")
    for unit in _MASKED:
        (units / unit).symlink_to("/dev/null")
    content = {
        "/etc/hostname": f"{name}\n",
        "/etc/machine-id": f"{name.encode().hex():0>32.32}\n",
        "/etc/fstab": "",
        "/etc/systemd/journald.conf": "[Journal]\nStorage=volatile\nRateLimitBurst=0\n",
        **files,
    }
    for path, text in content.items():
        target = layer / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return layer


def _child_of(process: subprocess.Popen[bytes], folder: Path) -> int:
    """systemd as soon as it is process 1 in there, which the script becomes by exec."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = 0

    def is_systemd() -> bool:
        nonlocal found
        if process.poll() is not None:
            raise AssertionError(f"boot failed: {(folder / 'boot.log').read_text()}")
        with contextlib.suppress(OSError, IndexError, ValueError):
            found = int(children.read_text().split()[0])
            return Path(f"/proc/{found}/comm").read_text().strip() == "systemd"
        return False

    wait_until(is_systemd, _BOOT_SECONDS, "systemd as process 1")
    return found


def _is_up(machine: Booted) -> bool:
    state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
    return state in ("running", "degraded")


def _make_groups(name: str) -> Iterator[Path]:
    """A group in each hierarchy, below the one we are in."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = Path(point)
        elif kind == "cgroup":
            mounts |= dict.fromkeys(options.split(","), Path(point))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = mounts.get(controllers.split(",")[0])
        if mount is None:
            continue
        parent = mount / path.lstrip("/")
        for left in parent.glob(f"{_GROUP_PREFIX}*"):
            _remove_if_empty(left)
        group = parent / f"{_GROUP_PREFIX}{name}"
        group.mkdir()
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (group / inherited).exists() and "cpuset" in controllers:
                (group / inherited).write_text((parent / inherited).read_text())
        yield group


def _remove_group(group: Path) -> None:
    """The group and all below it, once the kernel has let go of the last process in it."""
    wait_until(lambda: _remove_if_empty(group), 30, f"removal of {group}")


def _remove_if_empty(group: Path) -> bool:
    """Removes a group with all below it; one with a process in it stays. Whether it is gone."""
    folders = [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
    return not group.exists()
