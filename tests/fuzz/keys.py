"""Hostile keys and values in etcd: no agent ends, and what is skipped is named within the log's bound.

Mutations of almost valid leases and configs go the way that etcd's go, through followers, view, keeper and membership,
to all that is told of them: problems, log, status report, and what systemd hears::

    python -m tests.fuzz.keys --count 1000000
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from random import Random

from overlay.control.engine import ControlSettings, Engine, Span
from overlay.control.leases.allocator import Identity
from overlay.control.leases.view import LeaseView
from overlay.control.peers.membership import MAX_PROBLEMS
from overlay.control.schema.lease import format_lease_value
from overlay.daemon.troubles import MAX_LINES, REPEAT_AFTER, ProblemLog
from overlay.errors import LeaseFormatError
from overlay.store.contract import Committed, Event, Events, KeyValue, Snapshot
from overlay.store.session import Grant, Refresh

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets/"
BATCH = 50
"""Keys that come at once; what a batch brought goes with the next but one, so that the view stays small."""

MAX_TEXT = 600
"""Characters that one problem may have."""

KEYS = ("10.5.52.0-24", "10.12.13.0-24&fd00:12:13::-56", "10.5.0.0-16", "10.5.52.7-24", "x", "", "10.5.99.0-30")

LEASES = (
    '{"PublicIP":"172.31.0.9","PublicIPv6":null}',
    '{"PublicIP":"172.31.0.1","PublicIPv6":null,"NodeID":"me"}',
    '{"PublicIP":"172.31.0.2","NodeID":"me"}',
    '{"PublicIP":"172.31.0.2","PublicIPv6":"fd00::1","NodeID":"other","BackendType":"udp"}',
    '{"PublicIP":"172.31.0.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"1a:2f:c5:24:0d:cc"}}',
)

CONFIGS = (
    '{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"udp","Port":8285}}',
    '{"Network":"10.0.0.0/8","SubnetMin":"10.5.0.0","SubnetMax":"10.99.0.0","EnableNFTables":true}',
    '{"EnableIPv6":true,"Network":"10.5.0.0/16","IPv6Network":"fd00:10:5::/56","Backend":{"Type":"vxlan","VNI":7}}',
)

PIECES = (
    '"', "\\", "{", "}", "[", "]", ",", ":", "null", "true", "-0", "1e999", "24.0", "1" * 30, "1" * 5000, "NaN",
    '"\\ud800"', '"\\u0000"', '"a\\nMAINPID=1"', '"\x7f\x1b[2J"', '""', "{}", '{"Type":{}}', '"0.0.0.0"', '"::1%eth0"',
    '"NodeID":"\\udfff",', '"publicip":7,', "\ufeff", "\udc80",
)  # fmt: skip


def deep(rng: Random) -> str:
    """Nested as deep as the decoder takes, and somewhat less and more."""
    depth = rng.choice((2, 50, 99, 100, 101, 500, 994, 1000, 20_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('{"PublicIP":[', "]}")))
    return opening * depth + "1" + closing * (depth if rng.random() < 0.9 else 0)


def mutated(text: str, rng: Random) -> bytes:
    """Something that is not far from ``text``."""
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        at, length = rng.randrange(len(text) + 1), rng.choice((0, 0, 1, 4, 12))
        match rng.randrange(6):
            case 0:
                piece = deep(rng) if rng.random() < 0.05 else rng.choice(PIECES)
            case 1:
                piece = chr(rng.choice((rng.randrange(32), rng.randrange(128), rng.randrange(0x110000))))
            case 2:
                piece = text[at : at + 20]
            case _:
                piece = rng.choice(PIECES)
        if rng.random() < 0.4 and ":" in text:  # in place of a value, so that the rest stays whole
            at = text.index(":", rng.randrange(text.rindex(":") + 1)) + 1
            length = (
                max(0, min(text.find(mark, at) for mark in ",}" if mark in text[at:]) - at) if "}" in text[at:] else 0
            )
        text = text[:at] + piece + text[at + length :]
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05 and data:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(4)) + data[at + 1 :]
    return data


class Target(logging.Handler):
    """One node's control plane, fed by hand, whose every word is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.revision = 10
        self.lines = 0
        self.engine = Engine(ControlSettings(PREFIX), Identity("me", IPv4Address("172.31.0.1")), None, Random(1))
        logger = logging.Logger("fuzz")
        logger.addHandler(self)
        self._log = ProblemLog(logger)
        self._log_since = self.now
        self._old: list[list[str]] = [[], []]
        config = KeyValue(f"{PREFIX}/config", CONFIGS[0].encode(), 5)
        for span, items in ((Span.CONFIG, (config,)), (Span.LEASES, ())):
            self.engine.next_step(span, self.now)
            self.engine.loaded(span, Snapshot(self.revision, items), self.now)
            self.engine.next_step(span, self.now)
            assert self.engine.recall(span) is not None
            self.engine.proved(span, self.now)

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the log."""
        self.lines += 1
        record.getMessage().encode()

    def feed(self, items: Sequence[tuple[str, bytes]], configs: Sequence[bytes] = ()) -> int:
        """Writes keys of the leases' directory, and configs; returns how many keys were skipped."""
        self.now += 1.0
        gone, self._old = self._old[0], [self._old[1], [SUBNETS + name for name, _ in items]]
        events = [Event(KeyValue(key, b"", 0), deleted=True) for key in gone]
        events += [Event(KeyValue(SUBNETS + name, value, 0, lease_id=77)) for name, value in items]
        self._hear(Span.LEASES, events)
        for value in configs:
            self._hear(Span.CONFIG, [Event(KeyValue(f"{PREFIX}/config", value, 0))])
            self._judge()
        return self._judge()

    def _hear(self, span: Span, events: list[Event]) -> None:
        """As a watch tells it: each event at a revision of its own."""
        told = []
        for event in events:
            self.revision += 1
            kv = KeyValue(event.kv.key, event.kv.value, self.revision, event.kv.lease_id)
            told.append(Event(kv, event.deleted))
        if told:
            assert self.engine.heard(span, Events(self.revision, tuple(told)), self.now)
        self._act()

    def _act(self) -> None:
        """Grants the keeper what it asks for, and lets no transaction succeed: what others wrote is what counts."""
        for _ in range(10):
            self.engine.settle()
            action = self.engine.next_action(self.now)
            match action:
                case float():
                    return
                case Grant():
                    self.engine.completed(None, self.now)
                case Refresh():
                    self.engine.completed(86400, self.now)
                case _:
                    self.engine.completed(Committed(False, self.revision), self.now)

    def _judge(self) -> int:
        engine = self.engine
        engine.settle()
        state = engine.state
        self._log.update(state.problems, self.now)
        if self.now - self._log_since >= REPEAT_AFTER:
            assert self.lines <= 8 * (MAX_LINES + 1), self.lines
            self.lines, self._log_since = 0, self.now
        for text in map(str, state.problems):
            assert text.isprintable(), ascii(text)
            assert len(text) <= MAX_TEXT, text
            text.encode()
        json.dumps([problem.text for problem in state.problems])
        named_keys = {problem.about for problem in state.problems if problem.code == "lease"}
        skipped = sorted(engine.view.malformed)
        assert state.skipped >= len(skipped)
        named = [key for key in skipped if key in named_keys]
        assert len(named) >= min(len(skipped), MAX_PROBLEMS) - (state.skipped - len(skipped)), (skipped, named_keys)
        return state.skipped


def lease_or_named(view: LeaseView, key: str) -> None:
    """A key is a lease that can be written back, or is known as malformed."""
    record = view.record(key)
    if record is None:
        error = view.malformed[key]
        assert isinstance(error, LeaseFormatError)
    else:
        format_lease_value(record.lease)
        assert record.lease == record.lease.__class__(**{f: getattr(record.lease, f) for f in record.lease.__slots__})


def run(count: int, seed: int, told: Callable[[str], None] = lambda text: None) -> int:
    """Feeds ``count`` keys and values; returns how many were skipped when they came."""
    rng, target = Random(seed), Target()
    skipped, began = 0, time.monotonic()
    for number in range(math.ceil(count / BATCH)):
        items = []
        for _ in range(BATCH):
            name = rng.choice(KEYS) if rng.random() < 0.5 else f"10.{rng.randrange(256)}.{rng.randrange(256)}.0-24"
            if rng.random() < 0.3:
                name = mutated(name, rng).decode("utf-8", "surrogateescape")
            items.append((name, mutated(rng.choice(LEASES), rng)))
        configs = [mutated(rng.choice(CONFIGS), rng)] if rng.random() < 0.5 else []
        skipped += target.feed(items, configs)
        for name, _ in items:
            lease_or_named(target.engine.view, SUBNETS + name)
        if number % 2000 == 1999:
            told(f"{(number + 1) * BATCH} keys, {time.monotonic() - began:.0f} s, {skipped} skipped")
    return skipped


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Hostile keys and values in etcd.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("overlay").setLevel(logging.CRITICAL)
    skipped = run(options.count, options.seed, print)
    print(f"{options.count} keys and values: {skipped} skipped and named, no agent ended")


if __name__ == "__main__":
    main()
