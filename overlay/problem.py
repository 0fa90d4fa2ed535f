"""What is wrong and does not end anything: the same in ``status``, in the log and in the exit status of ``status``.

A problem keeps its kind from where it arises to whoever reads of it: what it is called, how bad it is and what it is
about are never to be found out from its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from overlay.errors import OverlayError


class Severity(Enum):
    """What a problem does to the node."""

    DOWN = "down"
    """While it lasts the node is not ready: what it is for cannot be relied on."""
    DEGRADED = "degraded"
    """The node does its work, but not all of it, or not as it should."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now.

    Attributes:
        code: its kind ("drops", "lease"). Kinds are few, and named in the code alone.
        sentence: what is wrong, as a fact.
        remedy: what the operator can do, and what is being done about it; may be empty.
        about: the one thing that is wrong (a key in etcd, a port), which the sentence then names; empty for what is
            about the node as a whole. Code and this tell a problem from others while its numbers change.
        severity: what it does to the node.
        measured: whether its sentence has figures that every look finds different: then another sentence is no news.
    """

    code: str
    sentence: str
    remedy: str = ""
    about: str = ""
    severity: Severity = Severity.DEGRADED
    measured: bool = False

    @classmethod
    def of(
        cls,
        error: OverlayError,
        code: str,
        *,
        about: str | None = None,
        before: str = "",
        after: str = "",
        severity: Severity = Severity.DEGRADED,
    ) -> Problem:
        """What ``error`` says.

        Args:
            about: as above; by default what the error is about.
            before: what does not work because of it, in front of the sentence.
            after: what is being done about it, behind the remedy.
        """
        sentence = f"{error.about}: {error.cause}" if error.about else error.cause
        sentence = f"{before}: {sentence}" if before else sentence
        remedy = "; ".join(part for part in (error.remedy, after) if part)
        return cls(code, sentence, remedy, (error.about or code) if about is None else about, severity)

    @property
    def identity(self) -> tuple[str, str]:
        """What it is told from other problems by."""
        return self.code, self.about

    @property
    def parts(self) -> dict[str, str]:
        """What a report has of it for scripts, by stable names."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "about": self.about,
            "sentence": self.sentence,
            "remedy": self.remedy,
        }

    @property
    def text(self) -> str:
        """The one line that people read, as ``str(problem)``; what is about no one thing begins with its code."""
        return self.plain if self.about else f"{self.code}: {self.plain}"

    @property
    def plain(self) -> str:
        """Sentence and remedy, for where it is clear what they are about."""
        return f"{self.sentence}; {self.remedy}" if self.remedy else self.sentence

    def __str__(self) -> str:
        return self.text
