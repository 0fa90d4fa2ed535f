"""What every proxy mode can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overlay.problem import Problem
from overlay.services.table import Entry, Table

SCHEDULERS = ("rr", "lc", "dh", "sh", "sed", "nq", "random")
"""What a Service, or ``--proxy-scheduler``, may ask for; the words are IPVS's, but for ``random``."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a mode is made with.

    Attributes:
        state_dir: where it may keep files, below a folder of its own name.
        scheduler: ``--proxy-scheduler``: what Services get that ask for none; empty: what the mode does by itself.
        cgroup: ``--proxy-cgroup``: whose processes mode ebpf is for; None: all of the machine.
    """

    state_dir: Path
    scheduler: str = ""
    cgroup: Path | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one :meth:`Mode.apply`.

    Attributes:
        changes: how many commands, map elements or rules it took; 0 where all was right before.
        problems: what keeps packets from passing, and what to do.
        due: in how many seconds it is to be applied again though nothing changes; None: there is no need.
    """

    changes: int = 0
    problems: tuple[Problem, ...] = ()
    due: float | None = None


class Mode(Protocol):
    """One way to make addresses answer. Its methods are called one at a time; they may block in threads, not here.

    The first :meth:`apply` finds what an earlier daemon left, and takes it over: connections that it carries go on, and
    new ones meet at every moment what they met before or what they are to meet now. Each later one changes only what
    differs from the table before, in transactions that new connections see whole or not at all.
    """

    @property
    def name(self) -> str:
        """As ``--proxy-mode`` has it."""

    @property
    def stands_on(self) -> tuple[str, ...]:
        """Names of the modes beneath, whose things are in use as well. They are removed by those modes."""

    async def probe(self) -> str:
        """Why this machine cannot have it; empty where it can. Changes nothing that outlives it."""

    async def apply(self, table: Table) -> Applied:
        """Makes the node do what the table says, and nothing else of this mode's.

        After an error the next one trusts nothing that it remembers.

        Raises:
            OverlayError: it could not; tried again later.
        """

    async def check(self) -> bool:
        """Whether what was applied last is still there; where not, the next :meth:`apply` writes everything."""

    async def remove(self) -> list[str]:
        """Removes all that any process ever made for this mode; returns what there was, as people call it.

        Raises:
            OverlayError: it could not.
        """

    async def close(self) -> None:
        """The daemon ends: lets go of descriptors and helpers. What carries traffic without them stays."""

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """What an entry asks for and this mode cannot do, a sentence each, for the Service's owner. Pure."""

    def facts(self) -> Mapping[str, object]:
        """What ``overlay services --status`` shows of it, as JSON has it."""
