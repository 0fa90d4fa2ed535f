"""Debian's archive, any suite of it, beside the one this machine is installed from.

Each suite gets a package list and a download directory of its own in the cache; apt does the rest, with this machine's
mirror, proxy and certificates, and never touches what is installed here.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Suite:
    """One suite of the archive.

    Attributes:
        name: as in sources.list(5), for example ``trixie``.
        cache: a directory of the suite's own; made where it is missing.
    """

    name: str
    cache: Path

    @property
    def options(self) -> tuple[str, ...]:
        """What makes an apt command speak of this suite alone (apt.conf(5))."""
        return (
            *("-o", f"Dir::Etc::SourceList={self.cache / 'sources.list'}", "-o", "Dir::Etc::SourceParts=/dev/null"),
            *("-o", f"Dir::State::Lists={self.cache / 'lists'}", "-o", f"Dir::Cache={self.cache}"),
            *("-o", "Dir::State::Status=/dev/null"),  # else a newer version that is installed here is the candidate
            *("-o", "APT::Get::List-Cleanup=0", "-o", "APT::Sandbox::User=root"),
        )

    def update(self) -> None:
        """Reads the suite's package list. Raises RuntimeError with apt's last words."""
        for folder in ("lists/partial", "archives/partial", "packages"):
            (self.cache / folder).mkdir(parents=True, exist_ok=True)
        (self.cache / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self.name} main\n")
        run("apt-get", *self.options, "update", "-qq")

    def fetch(self, package: str) -> Path:
        """Downloads the package's newest version; its file. Raises RuntimeError where the suite has none."""
        folder = self.cache / "packages"
        before = set(folder.iterdir())
        run("apt-get", *self.options, "download", "-qq", package, cwd=folder)
        found = sorted(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        for older in found[:-1]:
            if older in before:
                older.unlink()
        return found[-1]

    def unpack(self, package: str, folder: Path) -> None:
        """Fetches the package and puts its files below ``folder``, without installing it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "--extract", str(self.fetch(package)), str(folder))

    def kernel_packages(self, flavour: str = "linux-image-amd64") -> tuple[str, ...]:
        """The packages of the suite's kernel, which the metapackage ``flavour`` depends on.

        From Debian 14 on the kernel itself, its modules and the list of those built in are packages of their own.
        """
        for image in self._depends(flavour, "linux-image-"):
            parts = ("linux-base-", "linux-binary-", "linux-modules-")
            return (image, *(package for part in parts for package in self._depends(image, part)))
        raise RuntimeError(f"{self.name} has no {flavour}")

    def _depends(self, package: str, prefix: str) -> list[str]:
        """What a package depends on, of those whose name begins with ``prefix``."""
        listed = run("apt-cache", *self.options, "depends", package).splitlines()
        names = [line.partition("Depends: ")[2].strip() for line in listed]
        return [name for name in names if name.startswith(prefix)]


def mirror() -> str:
    """Where this machine itself gets Debian from. Raises RuntimeError where it is no Debian, or never ran update."""
    listed = run("apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)")
    for line in listed.splitlines():
        origin, codename, address = line.split("|")
        if origin == "Debian" and "-" not in codename:
            return address.rstrip("/")
    raise RuntimeError("apt knows no mirror of Debian: apt-get update")


@contextmanager
def alone(made: Path) -> Iterator[None]:
    """Waits until nobody else, in this process or another, makes what is to be at ``made``."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_name(f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a command; what it printed. Raises RuntimeError with what it complained about."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:] or done.stdout[-2000:]}")
    return done.stdout
