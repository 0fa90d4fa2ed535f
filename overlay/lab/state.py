"""The directory that a lab keeps: its description, written before anything is made, and a directory a machine.

::

    /run/overlay-lab/LAB/
      lab.json            the description and, for a lab of a `with` statement, the process that it belongs to
      etcd/               data/, etcd.log, pid
      n1/                 subnet.env, agent.log, pid, ready.sock, and what the agent puts into its state directory
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from overlay.errors import LabError
from overlay.lab.process import Process
from overlay.lab.topology import LabSpec

ROOT = Path("/run/overlay-lab")

_DESCRIPTION = "lab.json"


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Where one lab's files are. The directory is the claim to its name: made once, or not at all."""

    path: Path

    @classmethod
    def default(cls, name: str) -> StateDirectory:
        return cls(ROOT / name)

    @property
    def exists(self) -> bool:
        return (self.path / _DESCRIPTION).exists()

    def claim(self, spec: LabSpec, owner: Process | None) -> None:
        """Makes the directory and writes the description.

        Raises:
            LabError: there is a lab already, or something else is in the directory.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise LabError(
                    "is there already" if self.exists else "is not empty, and no lab's",
                    about=f"lab {spec.name} in {self.path}",
                    remedy=f"overlay lab down --name {spec.name}" if self.exists else "choose another --state",
                )
            document = {"spec": json.loads(spec.to_json()), "owner": asdict(owner) if owner else None}
            # Exclusive: of two that start the same lab at once, one fails here.
            with (self.path / _DESCRIPTION).open("x") as file:
                json.dump(document, file, indent=2)
        except OSError as error:
            raise LabError(error.strerror or str(error), about=f"lab directory {self.path}") from error

    def load(self) -> tuple[LabSpec, Process | None]:
        """The description, and the process that the lab ends with (None: it stays until ``down``).

        Raises:
            LabError: there is no lab, or its description was cut short by a crash.
        """
        try:
            document = json.loads((self.path / _DESCRIPTION).read_text())
            owner = document["owner"]
            return LabSpec.from_json(json.dumps(document["spec"])), Process(**owner) if owner else None
        except FileNotFoundError as error:
            raise LabError("there is none", about=f"lab in {self.path}", remedy="overlay lab up makes one") from error
        except (ValueError, KeyError, TypeError) as error:
            raise LabError("its description is unreadable", about=f"lab in {self.path}") from error

    def machine(self, name: str) -> MachineFiles:
        """The files of one machine; makes their directory."""
        directory = self.path / name
        directory.mkdir(exist_ok=True)
        return MachineFiles(directory)

    def remove(self) -> bool:
        """Removes the directory if it is a lab's or empty, and that of all labs if it was the last; whether it was."""
        found = self.path.exists()
        if self.exists or self.path.parent == ROOT:
            shutil.rmtree(self.path, ignore_errors=True)
        for directory in (self.path, ROOT):
            # A crash before the description was written leaves an empty directory; what is not empty is not ours.
            with contextlib.suppress(OSError):
                directory.rmdir()
        return found and not self.path.exists()


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """What is kept for one machine of the lab."""

    directory: Path

    @property
    def subnet_file(self) -> Path:
        return self.directory / "subnet.env"

    def log(self, program: str) -> Path:
        return self.directory / f"{program}.log"

    def last_words(self, program: str, lines: int = 3) -> str:
        """The last lines that a program logged, joined to one, for error messages; empty where it said nothing."""
        with contextlib.suppress(OSError):
            said = self.log(program).read_text(errors="replace").strip().splitlines()
            return " / ".join(said[-lines:])
        return ""

    @property
    def process(self) -> Process | None:
        """The machine's main process as remembered, whether or not it still runs."""
        try:
            return Process(**json.loads((self.directory / "pid").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def remember(self, process: Process) -> None:
        (self.directory / "pid").write_text(json.dumps(asdict(process)))


def all_labs() -> Iterator[StateDirectory]:
    """Every lab whose directory is in the usual place."""
    if ROOT.is_dir():
        yield from (StateDirectory(path) for path in sorted(ROOT.iterdir()) if path.is_dir())
