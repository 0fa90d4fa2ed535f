"""What is wrong and does not end anything: the same in ``status``, in the log and in the exit status of ``status``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now.

    Attributes:
        code: tells it from others while its numbers change ("drops", "slow-path").
        sentence: what is wrong, as a fact.
        remedy: what the operator can do.
    """

    code: str
    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}; {self.remedy}"
