"""Runs other programs, here or in a namespace; what they complain about becomes one LabError."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from overlay.errors import LabError

NETNS = Path("/run/netns")
"""Where iproute2 keeps its named namespaces (ip-netns(8))."""

_TIMEOUT = 60.0
"""Seconds for a command that should take milliseconds; one that takes longer hangs."""

_PACKAGES = {
    "bridge": "iproute2",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "sockperf": "sockperf",
    "tc": "iproute2",
}
"""Debian's package of every program that a lab may need."""


def require_root() -> None:
    """Raises LabError without root."""
    if os.geteuid() != 0:
        raise LabError("needs root, to make network namespaces", remedy="run it with sudo")


def require_programs(*names: str) -> None:
    """Raises one LabError that names every missing program and the package it comes in."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES.get(name, name) for name in missing))
        raise LabError(f"missing {', '.join(missing)}", remedy=f"apt-get install {packages}")


def overlay_command() -> str:
    """The installed command: beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).with_name("overlay")
    found = str(beside) if beside.exists() else shutil.which("overlay")
    if found is None:
        raise LabError("the overlay command is not installed", remedy=f"install it beside {sys.executable}")
    return found


def inside(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in a namespace. nsenter executes it, so the process id is the command's.

    Not ``ip netns exec``: that mounts a new /sys, which hides /sys/fs/bpf.
    """
    return list(argv) if namespace is None else ["nsenter", f"--net={NETNS / namespace}", "--", *argv]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without flanneld's variables, which would configure agents behind our back."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLANNELD_", "NOTIFY_SOCKET"))}
    return kept | {"ETCDCTL_API": "3"} | dict(extra or {})


def run(
    argv: Sequence[str],
    *,
    namespace: str | None = None,
    text: str | None = None,
    timeout: float = _TIMEOUT,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end with ``text`` on its standard input and ``env`` added to its environment.

    Raises:
        LabError: it is not there, hangs or (with ``check``) fails; says the last thing that it complained about.
    """
    try:
        done = subprocess.run(
            inside(namespace, argv),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=clean_environment(env),
            check=False,
        )
    except FileNotFoundError as error:
        require_programs(Path(argv[0]).name, "nsenter")
        raise LabError(str(error), about=argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"did not end within {timeout:g} s", about=_shown(argv)) from error
    if check and done.returncode != 0:
        # nft underlines what it complains about: a line of carets says nothing.
        complaints = [line for line in (done.stderr or done.stdout).splitlines() if line.strip(" ^")]
        raise LabError(complaints[-1] if complaints else f"exit status {done.returncode}", about=_shown(argv))
    return done


def run_batch(lines: Iterable[str], *, namespace: str | None = None) -> None:
    """Runs lines of ``ip`` in one process. Raises LabError that shows the line that failed."""
    batch = list(lines)
    if not batch:
        return
    done = run(["ip", "-batch", "-"], namespace=namespace, text="\n".join(batch) + "\n", check=False)
    if done.returncode != 0:
        raise batch_error(batch, done.stderr)


def batch_error(batch: Sequence[str], complaint: str) -> LabError:
    """What ``ip -batch`` said ("RTNETLINK answers: …", "Command failed -:3"), with the line that it was about."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    number = next((int(line.rpartition(":")[2]) for line in lines if line.startswith("Command failed -:")), None)
    about = f"ip {batch[number - 1]}" if number is not None and number <= len(batch) else "ip -batch"
    return LabError(lines[0].removeprefix("RTNETLINK answers: ") if lines else "failed", about=about)


def _shown(argv: Sequence[str]) -> str:
    return " ".join(argv[:6]) + (" …" if len(argv) > 6 else "")
