"""What is asked and what is answered, as data: the words that the pure half of the DNS server speaks. Pure.

Names are text as people write them, absolute with their dot at the end (``redis.default.svc.cluster.local.``); types
are by their mnemonics (``A``, ``SRV``). What bytes they become is ``worker/wire.py``'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Labels: TypeAlias = tuple[str, ...]
"""A name's labels as they were asked, the leftmost first, without the root's."""

Tag: TypeAlias = tuple[str, str]
"""What an answer hangs on: ``("service", "default/redis")``, ``("address", "10.96.0.1")``, ``("namespace", "shop")``.
When that changes, the answer may be another one."""


class Code(Enum):
    """A response code (RFC 1035 section 4.1.1), by its number."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Question:
    """One question of class IN."""

    labels: Labels
    type: str

    @property
    def name(self) -> str:
        return absolute(self.labels)


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of class IN; ``data`` as in a zone file, ``ttl`` in seconds."""

    owner: str
    ttl: int
    type: str
    data: str


Records: TypeAlias = tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered from what is known here.

    Attributes:
        chase: a name outside the cluster by which the last CNAME goes on; what is found there belongs behind it.
        depends: what the answer was made of, or of whose absence.
    """

    code: Code = Code.NOERROR
    answer: Records = ()
    authority: Records = ()
    additional: Records = ()
    chase: str = ""
    depends: frozenset[Tag] = frozenset()


def absolute(labels: Labels) -> str:
    """The name of some labels, with the dot at the end."""
    return ".".join(labels) + "."


def labels_of(name: str) -> Labels:
    """The labels of a name without escapes; a dot at its end is the same as none."""
    return tuple(name.rstrip(".").split(".")) if name.strip(".") else ()


def lowered(labels: Labels) -> Labels:
    """As they compare: DNS knows no case but ASCII's (RFC 4343)."""
    return tuple(label.lower() for label in labels)
