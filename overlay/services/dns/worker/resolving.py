"""Names that are not the cluster's: what is remembered, and whom to ask for the rest, when and how often at once.

One question is asked once, however many wait for it; so a loop of servers that ask each other ends at us. Upstreams are
asked in their order: the next one when the one before says that it cannot tell, or is silent for a second, while what
it may say still counts. One that was silent is asked for names again once it has answered a probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from overlay.services.dns.worker import remembered, upstream
from overlay.services.dns.worker.counts import Counts
from overlay.services.dns.worker.remembered import Remembered
from overlay.services.dns.worker.wire import UDP_PAYLOAD, Query, Reply

MOST_AT_ONCE = 500
"""Questions that upstreams are asked at one time; more fail."""

STEP = 1.0
"""Seconds of silence after which the next upstream is asked as well."""
DEADLINE = 4.5
"""Seconds after which nobody waits any more: resolvers ask again after five."""
PATIENCE_WITH_STALE = 1.8
"""Seconds that are waited where an old answer is at hand (RFC 8767 section 5)."""
PROBE_SECONDS = 2.0
"""Between two probes of an upstream that was silent."""
ATTEMPTS = 4
LOOP_SECONDS = 60.0
"""Between two looks whether an upstream asks us back what it is asked."""

_USELESS = (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What upstreams are asked; ``name`` compares without regard to case."""

    name: dns.name.Name
    type: dns.rdatatype.RdataType
    dnssec: bool
    checking_disabled: bool

    @classmethod
    def of(cls, query: Query, name: dns.name.Name | None = None) -> Wanted:
        """What a client's question makes of it, for another name if given."""
        return cls(query.name if name is None else name, query.type, query.dnssec, query.checking_disabled)


class Resolver:
    """Finds out.

    Attributes:
        down: upstreams that were silent when they were asked last.
        looping: upstreams that ask us, or somebody who does, what they are asked.
    """

    def __init__(self, counts: Counts, port: int = upstream.PORT) -> None:
        self._counts = counts
        self._port = port
        self._upstreams: tuple[str, ...] = ()
        self._remembered = Remembered()
        self._asking: dict[Wanted, asyncio.Task[Reply | None]] = {}
        self._tracers: dict[dns.name.Name, bool] = {}
        self._changed = asyncio.Event()
        self.down: set[str] = set()
        self.looping: set[str] = set()

    def use(self, upstreams: Sequence[str]) -> None:
        """From now on these are asked."""
        if tuple(upstreams) != self._upstreams:
            self._upstreams = tuple(upstreams)
            self.down &= set(upstreams)
            self.looping &= set(upstreams)
            self._changed.set()
            self._remembered.clear()

    def known(self, wanted: Wanted) -> Reply | None:
        """What is remembered and holds."""
        now = time.monotonic()
        if (said := self._remembered.holds(wanted, now)) is None:
            return None
        self._counts["remembered"] += 1
        return _reply(dns.message.from_wire(said.wire), wanted, said.age(now))

    async def find(self, wanted: Wanted) -> Reply:
        """What upstreams say; SERVFAIL where none can tell."""
        if wanted.name in self._tracers:
            self._tracers[wanted.name] = True
            return self._failure()
        if (known := self.known(wanted)) is not None:
            return known
        now = time.monotonic()
        stale = self._remembered.stale(wanted, now)
        if self._remembered.just_failed(wanted, now):
            return self._stale(wanted) if stale is not None else self._failure()
        task = self._asking.get(wanted)
        if task is None:
            if len(self._asking) >= MOST_AT_ONCE:
                return self._stale(wanted) if stale is not None else self._failure()
            task = self._asking[wanted] = asyncio.create_task(self._ask(wanted))
            task.add_done_callback(lambda _: self._asking.pop(wanted, None))
        await asyncio.wait([task], timeout=PATIENCE_WITH_STALE if stale is not None else None)
        if task.done() and not task.cancelled() and task.exception() is None and (found := task.result()) is not None:
            return found
        return self._stale(wanted) if stale is not None else self._failure()

    async def probe(self) -> None:
        """Asks those again that were silent, for as long as it runs."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await asyncio.gather(*(self._probe(each) for each in tuple(self.down)))

    async def look_for_loops(self) -> None:
        """Asks each upstream for a name that nobody else asks for, now and then, as CoreDNS' plugin ``loop`` does."""
        while True:
            self._changed.clear()
            await asyncio.gather(*(self._trace(each) for each in self._upstreams))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOP_SECONDS):
                    await self._changed.wait()

    async def _trace(self, server: str) -> None:
        tracer = dns.name.from_text(f"{secrets.token_hex(8)}.{secrets.token_hex(8)}.")
        self._tracers[tracer] = answered = False
        try:
            async with asyncio.timeout(DEADLINE):
                await upstream.ask(server, dns.message.make_query(tracer, "HINFO"), Counts(), self._port)
            answered = True
        except (OSError, TimeoutError):  # then it is known only if it came back
            pass
        finally:
            came_back = self._tracers.pop(tracer)
        if came_back and server in self._upstreams:
            self.looping.add(server)
        elif answered:
            self.looping.discard(server)

    # --- asking ---

    async def _ask(self, wanted: Wanted) -> Reply | None:
        message = await self._first_of_all(wanted)
        now = time.monotonic()
        if message is None:
            self._remembered.failed(wanted, now)
            return None
        kept = _sanitized(message, wanted)
        self._remembered.put(wanted, kept.to_wire(), _lifetime(kept), now)
        return _reply(kept, wanted, 0)

    async def _first_of_all(self, wanted: Wanted) -> dns.message.Message | None:
        """The first answer that tells something; None if there was none in time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + DEADLINE
        order = sorted(self._upstreams, key=lambda each: each in self.down)
        waiting: dict[asyncio.Task[dns.message.Message], tuple[str, float]] = {}
        attempts = iter((order * ATTEMPTS)[:ATTEMPTS])
        self._counts["forwarded"] += 1
        try:
            while loop.time() < end:
                if (server := next(attempts, None)) is not None:
                    task = asyncio.create_task(upstream.ask(server, _question(wanted), self._counts, self._port))
                    waiting[task] = server, loop.time()
                if not waiting:
                    return None
                patience = end - loop.time() if server is None else min(STEP, end - loop.time())
                done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    told, _ = waiting.pop(task)
                    if task.exception() is not None:
                        self.down.add(told)
                    else:
                        self.down.discard(told)
                        if task.result().rcode() not in _USELESS:
                            return task.result()
            return None
        finally:
            for task, (server, since) in waiting.items():
                task.cancel()
                if loop.time() - since >= STEP:
                    self._counts["upstream_silent"] += 1
                    self.down.add(server)
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _probe(self, server: str) -> None:
        question = dns.message.make_query(dns.name.root, dns.rdatatype.NS)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await upstream.ask(server, question, Counts(), self._port)
        except (OSError, TimeoutError):
            return
        self.down.discard(server)

    # --- answers that are none ---

    def _stale(self, wanted: Wanted) -> Reply:
        said = self._remembered.stale(wanted, time.monotonic())
        if said is None:
            return self._failure()
        self._counts["stale"] += 1
        message = dns.message.from_wire(said.wire)
        for each in (*message.answer, *message.authority):
            each.ttl = remembered.STALE_TTL
        return _reply(message, wanted, 0)

    def _failure(self) -> Reply:
        self._counts["failed"] += 1
        return Reply(dns.rcode.SERVFAIL)


def _question(wanted: Wanted) -> dns.message.Message:
    message = dns.message.make_query(wanted.name, wanted.type)
    message.use_edns(0, dns.flags.DO if wanted.dnssec else 0, UDP_PAYLOAD)
    if wanted.checking_disabled:
        message.flags |= dns.flags.CD
    message.flags |= dns.flags.AD  # we would know (RFC 6840 section 5.7)
    return message


_PROOFS = (dns.rdatatype.SOA, dns.rdatatype.NSEC, dns.rdatatype.NSEC3, dns.rdatatype.RRSIG)


def _sanitized(message: dns.message.Message, wanted: Wanted) -> dns.message.QueryMessage:
    """What of an answer is about the question: the chain of its CNAMEs and the records at their end, and in the
    authority section what proves that there is nothing."""
    kept = dns.message.QueryMessage(id=0)
    kept.flags = dns.flags.QR | message.flags & (dns.flags.AD | dns.flags.AA)
    kept.question = [dns.rrset.RRset(wanted.name, dns.rdataclass.IN, wanted.type)]
    kept.set_rcode(message.rcode())
    chain = _chain(message, wanted)
    any_type = wanted.type == dns.rdatatype.ANY
    for each in message.answer:
        if each.rdclass != dns.rdataclass.IN or each.name not in chain:
            continue
        of = each.covers if each.rdtype == dns.rdatatype.RRSIG and wanted.dnssec else each.rdtype
        if any_type or of in (wanted.type, dns.rdatatype.CNAME, dns.rdatatype.DNAME):
            kept.answer.append(each)
    kept.authority = [
        each
        for each in message.authority
        if each.rdtype in _PROOFS and (wanted.dnssec or each.rdtype == dns.rdatatype.SOA)
    ]
    return kept


def _chain(message: dns.message.Message, wanted: Wanted) -> set[dns.name.Name]:
    """The name and all that its CNAMEs lead to, one after another."""
    aliases = {
        each.name: each[0].target
        for each in message.answer
        if each.rdtype == dns.rdatatype.CNAME and each.rdclass == dns.rdataclass.IN and len(each) > 0
    }
    name, seen = wanted.name, {wanted.name}
    while (target := aliases.get(name)) is not None and target not in seen:
        seen.add(target)
        name = target
    return seen | {each.name for each in message.answer if each.rdtype == dns.rdatatype.DNAME}


def _lifetime(message: dns.message.Message) -> int:
    """Seconds for which it holds."""
    if message.rcode() == dns.rcode.NOERROR and any(each.rdtype != dns.rdatatype.CNAME for each in message.answer):
        return min(remembered.LONGEST, *(each.ttl for each in message.answer))
    if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0
    soa = [each for each in message.authority if each.rdtype == dns.rdatatype.SOA and len(each) > 0]
    if not soa:
        return remembered.WITHOUT_SOA
    ttls = (each.ttl for each in message.answer)
    return min(remembered.LONGEST_NEGATIVE, soa[0].ttl, int(soa[0][0].minimum), *ttls)


def _reply(message: dns.message.Message, wanted: Wanted, age: int) -> Reply:
    for each in (*message.answer, *message.authority):
        each.ttl = max(0, each.ttl - age)
    return Reply(
        message.rcode(),
        authentic=bool(message.flags & dns.flags.AD),
        answer=list(message.answer),
        authority=list(message.authority),
    )
