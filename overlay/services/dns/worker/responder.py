"""One question to one answer: from the zone where it is the cluster's, from upstreams where it is not."""

from __future__ import annotations

import random
import time

import dns.exception
import dns.name
import dns.rcode

from overlay.services.dns import answers
from overlay.services.dns.names import below
from overlay.services.dns.records import Answer, Question, lowered
from overlay.services.dns.worker import wire
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.kept import Kept
from overlay.services.dns.worker.resolving import Resolver, Wanted
from overlay.services.dns.worker.wire import Query, Reply
from overlay.services.dns.zone import Zone


class Responder:
    """Answers questions.

    Attributes:
        complete: whether the zone is all there is: before, it is not known what does not exist.
    """

    def __init__(self, zone: Zone, kept: Kept, resolver: Resolver, counts: Counts, rng: random.Random) -> None:
        self._zone = zone
        self._kept = kept
        self._resolver = resolver
        self._counts = counts
        self._rng = rng
        self.complete = False

    def at_once(self, query: Query, raw: bytes) -> bytes | None:
        """The answer to a question of which ``raw`` are the bytes; None where upstreams must be asked."""
        question = query.question
        found = answers.answer(self._zone, question)
        # Before all is known, of addresses that are ours alone it is not known that they have no name.
        if not self.complete and (self._is_ours(question) or (found is not None and not found.answer)):
            self._counts["not_ready"] += 1
            return wire.encode(query, Reply(dns.rcode.SERVFAIL))
        if found is None:
            known = self._resolver.known(Wanted.of(query))
            return None if known is None else self._encoded(query, raw, known)
        try:
            reply = wire.local(found)
            if not found.chase:
                self._counts["answered"] += 1
                return self._encoded(query, raw, reply, found)
            behind = self._resolver.known(self._chased(query, found))
        except (dns.exception.DNSException, ValueError):  # a name that is none was written into etcd
            return wire.encode(query, Reply(dns.rcode.SERVFAIL))
        return None if behind is None else self._encoded(query, raw, _joined(reply, behind), found)

    async def later(self, query: Query, raw: bytes) -> bytes:
        """The answer to a question for which :meth:`at_once` has none."""
        found = answers.answer(self._zone, query.question)
        if found is None:
            return self._encoded(query, raw, await self._resolver.find(Wanted.of(query)))
        if not found.chase:  # it was otherwise a moment ago
            return self._encoded(query, raw, wire.local(found), found)
        behind = await self._resolver.find(self._chased(query, found))
        return self._encoded(query, raw, _joined(wire.local(found), behind), found)

    def _is_ours(self, question: Question) -> bool:
        return below(lowered(question.labels), self._zone.domain) is not None

    @staticmethod
    def _chased(query: Query, found: Answer) -> Wanted:
        return Wanted.of(query, dns.name.from_text(found.chase))

    def _encoded(self, query: Query, raw: bytes, reply: Reply, found: Answer | None = None) -> bytes:
        """The bytes, which are kept: what upstreams said for a second at most, as its TTLs go on; and so what has an
        order that means nothing, for another to come first then."""
        encoded = wire.encode(query, reply, self._rng)
        if not query.once and reply.code != dns.rcode.SERVFAIL:
            lasting = found is not None and not found.chase and not reply.several
            until = None if lasting else int(time.monotonic()) + 1
            self._kept.put(raw[2:], encoded[2:], frozenset() if found is None else found.depends, until)
        return encoded


def _joined(reply: Reply, behind: Reply) -> Reply:
    """A CNAME of ours and what others say of its target; whose code it is, too (RFC 6604)."""
    return Reply(behind.code, True, False, [*reply.answer, *behind.answer], behind.authority)
