"""Runs all tests in two lanes, or in one where there is one processor: ``python -m tests [OTHER_PYTHON]``.

One lane begins with what needs the machine as it is (Docker, systemd, the package manager) and all that needs no
namespace. The other begins with the unit tests by the other interpreter (that of the lowest versions), takes the files
of ``tests/netns`` one after another, and the first helps it when it is through.
Each of these files runs in mount, pid and ipc namespaces of its own, with an empty ``/run`` and its own bpffs: two labs
never meet, and nothing of them can stay behind. What a run of pytest prints is shown when it has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent

_APART = Path("tests/netns")

_OWN_NAMESPACES = (
    *("unshare", "--mount", "--pid", "--fork", "--ipc", "--kill-child", "--mount-proc"),
    *("bash", "-c"),
    # The shell stays: as the first process it reaps what the tests' programs leave to it.
    "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/lock /run/netns && "
    'mount -t bpf bpf /sys/fs/bpf && "$@"; exit $?',
    "bash",
)

_ORDER = ("test_agent", "test_every_packet", "test_services")
"""Begun first, as they take longest: so that no lane ends long after the other."""


@dataclass
class _Run:
    """What a lane takes next, what runs with the signal that ends it, and what failed."""

    apart: deque[Path]
    failed: list[str] = field(default_factory=list)
    running: dict[subprocess.Popen[str], signal.Signals] = field(default_factory=dict)
    ended: bool = False
    lock: Lock = field(default_factory=Lock)

    def pytest(self, what: list[str], before: tuple[str, ...] = (), python: str = sys.executable) -> None:
        """Runs pytest; its status 5 (nothing to run) is as bad as any."""
        began = time.monotonic()
        with self.lock:
            if self.ended:
                return
            process = subprocess.Popen(
                [*before, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *what],
                cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.running[process] = signal.SIGKILL if before else signal.SIGINT
        said, _ = process.communicate()
        with self.lock:
            del self.running[process]
            if process.returncode:
                self.failed.append(" ".join(what))
            told = what if python == sys.executable else [python, *what]
            print(f"== {' '.join(told)} ({time.monotonic() - began:.0f} s)\n{said.strip()}", flush=True)

    def files(self) -> None:
        """Runs the files that are apart until there is none."""
        while True:
            with self.lock:
                if not self.apart:
                    return
                path = self.apart.popleft()
            self.pytest([str(path)], _OWN_NAMESPACES)

    def end(self) -> None:
        """Ends what runs: pytest cleans up, and what has namespaces of its own goes with them."""
        with self.lock:
            self.ended = True
            self.apart.clear()
            for process, number in self.running.items():
                process.send_signal(number)


def main() -> int:
    """Status 0 where everything passed."""
    files = sorted((ROOT / _APART).glob("test_*.py"), key=lambda path: (path.stem not in _ORDER, path.stem))
    run = _Run(deque(path.relative_to(ROOT) for path in files))

    def rest_first() -> None:
        run.pytest(["tests", f"--ignore={_APART}"])
        run.files()

    def files_first() -> None:
        for python in sys.argv[1:]:
            run.pytest(["tests/unit"], python=python)
        run.files()

    for number in (signal.SIGINT, signal.SIGTERM):  # a script's background ignores the former
        signal.signal(number, signal.default_int_handler)
    lanes = [rest_first, files_first]
    with ThreadPoolExecutor(min(len(lanes), os.cpu_count() or 1)) as pool:
        try:
            for lane in [pool.submit(lane) for lane in lanes]:
                lane.result()
        except KeyboardInterrupt:
            run.end()
            return 130
    if run.failed:
        print("\nfailed:\n  " + "\n  ".join(run.failed), file=sys.stderr)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
