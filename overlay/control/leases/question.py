"""Does the node live whose lease looks like ours? A lease with our node id and an address that we never had may be ours
from before, when the machine had that address, or that of the machine of which ours is a clone, with its memory.

Nothing that is stored tells the two apart, so the owner is asked, in its own lease: the same value, with a member that
flanneld ignores (``AskedBy``, our address). An agent that lives puts its lease right as soon as it sees that. Who gets
no answer takes the lease over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from overlay.control.schema.lease import LeaseRecord

ANSWER_TIME = 10.0
"""Seconds that the owner has. It needs milliseconds, or some seconds while a member of etcd restarts: a watch is made
again after 4 s at most (``follower.MAX_RETRY``)."""


class Reply(Enum):
    """What became of a question."""

    NOT_ASKED = "it has to be asked"
    WAITING = "there is still time to answer"
    ALIVE = "the owner has put its lease right"
    SILENCE = "nobody has answered"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that was written.

    Attributes:
        key: of the lease.
        revision: at which it was written.
        epoch: of the view then.
        until: when the time to answer is over.
    """

    key: str
    revision: int
    epoch: int
    until: float

    def reply(self, record: LeaseRecord, epoch: int, now: float) -> Reply:
        """What the lease, as it is in the view now, says to it."""
        if record.key != self.key or epoch != self.epoch:
            return Reply.NOT_ASKED
        if record.lease.asked_by is None and record.mod_revision != self.revision:
            return Reply.ALIVE  # another clone's question on top of ours is no answer
        return Reply.WAITING if now < self.until else Reply.SILENCE
