"""What a worker is told, through a real socket: all of it, then what changed, however slowly it reads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

import pytest

from overlay.errors import ServicesError
from overlay.services.dns import messages
from overlay.services.dns.feed import Feed
from overlay.services.dns.messages import Ask, Changes, Complete, Ready, Settings, Status
from overlay.services.dns.zone import Endpoint, Entry, Port, ServiceName

SETTINGS = Settings("cluster.local", "169.254.20.10")


class Known:
    """Facts that a test changes."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[ServiceName, Entry] = {}
        self.present = {"default"}
        self.addresses = set[tuple[str, str]]()

    def put(self, *entries: Entry) -> list[ServiceName]:
        self.revision += 1
        self.entries.update({each.full_name: each for each in entries})
        return [each.full_name for each in entries]

    def services(self) -> Iterable[ServiceName]:
        return list(self.entries)

    def entry(self, name: ServiceName) -> Entry | None:
        return self.entries.get(name)

    def namespaces(self) -> set[str]:
        return set(self.present)

    def pods(self) -> set[tuple[str, str]]:
        return set(self.addresses)


class Reader:
    """The worker's end."""

    def __init__(self) -> None:
        self.socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.zone: dict[ServiceName, Entry] = {}
        self.namespaces = set[str]()
        self.pods = set[tuple[str, str]]()
        self.told: list[messages.ToWorker] = []

    async def until(self, kind: type) -> None:
        """Reads on until a message of that kind came."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while True:
                message = messages.decode_to_worker(await loop.sock_recv(self.socket, messages.MAX_MESSAGE))
                self.told.append(message)
                if isinstance(message, Changes):
                    self.zone.update({each.full_name: each for each in message.services})
                    for name in message.services_gone:
                        del self.zone[name]
                    self.namespaces = (self.namespaces | set(message.namespaces)) - set(message.namespaces_gone)
                    self.pods = (self.pods | set(message.pods)) - set(message.pods_gone)
                if isinstance(message, kind):
                    return


def entry(name: str, address: str = "10.96.0.1", ends: int = 0) -> Entry:
    endpoints = tuple(Endpoint(f"10.0.{n >> 8}.{n & 255}", "h" * 60, (Port("p", "tcp", 80),)) for n in range(ends))
    return Entry("default", name, (address,), ports=(Port("p", "tcp", 80),), endpoints=endpoints)


async def test_settings_come_first_then_all_there_is_then_that_it_is_all() -> None:
    known, reader = Known(), Reader()
    known.put(*(entry(f"s{number}") for number in range(3000)))
    known.present |= {f"n{number}" for number in range(1000)}
    feed = Feed(reader.theirs, known, SETTINGS, loaded=True)
    await reader.until(Complete)
    assert reader.told[0] == SETTINGS
    assert reader.told[-1] == Complete(known.revision)
    assert (reader.zone, reader.namespaces) == (known.entries, known.present)
    feed.control.close()


async def test_only_what_changed_is_told() -> None:
    known, reader = Known(), Reader()
    known.put(entry("a"), entry("b"))
    feed = Feed(reader.theirs, known, SETTINGS, loaded=True)
    await reader.until(Complete)
    reader.told.clear()
    known.put(entry("a", "10.96.0.2"))
    known.addresses = {("default", "10.0.5.2")}
    feed.changed([("default", "a"), ("default", "b"), ("default", "never")], sets=True)
    await reader.until(Complete)
    (sets, services, _) = reader.told
    assert sets == Changes(pods=(("default", "10.0.5.2"),))
    assert services == Changes(services=(entry("a", "10.96.0.2"),))
    del known.entries["default", "b"]
    known.revision += 1
    known.present, known.addresses = {"shop"}, set()
    feed.changed([("default", "b")], sets=True)
    await reader.until(Complete)
    assert (reader.zone, reader.namespaces, reader.pods) == (known.entries, {"shop"}, set())
    feed.control.close()


async def test_nothing_is_called_complete_before_it_is() -> None:
    """Until etcd was read, what is not known may exist."""
    known, reader = Known(), Reader()
    feed = Feed(reader.theirs, known, SETTINGS, loaded=False)
    question = asyncio.create_task(feed.control.ask())
    await reader.until(Ask)
    assert not any(isinstance(each, Changes | Complete) for each in reader.told)
    known.put(entry("a"))
    feed.changed((), sets=False)
    await reader.until(Complete)
    assert (reader.zone, reader.namespaces) == (known.entries, {"default"})
    question.cancel()
    feed.control.close()


async def test_a_worker_that_does_not_read_holds_up_nobody_and_catches_up() -> None:
    known, reader = Known(), Reader()
    known.put(*(entry(f"s{number}", ends=500) for number in range(50)))
    feed = Feed(reader.theirs, known, SETTINGS, loaded=True)
    for turn in range(200):
        feed.changed(known.put(entry(f"s{turn % 50}", f"10.96.{turn}.1", ends=500)), sets=False)
    while reader.zone != known.entries:
        await reader.until(Changes)
    feed.control.close()


async def test_a_service_too_large_for_a_message_tells_fewer_endpoints() -> None:
    known, reader = Known(), Reader()
    ports = tuple(Port("p" * 15, "tcp", number) for number in range(100))
    ends = tuple(Endpoint(f"10.0.{n >> 8}.{n & 255}", f"10-0-{n >> 8}-{n & 255}", ports) for n in range(1000))
    known.put(Entry("default", "large", headless=True, endpoints=ends))
    feed = Feed(reader.theirs, known, SETTINGS, loaded=True)
    await reader.until(Complete)
    assert 10 < len(reader.zone["default", "large"].endpoints) < 1000
    feed.control.close()


async def test_what_it_says_is_heard_and_its_end_is_told() -> None:
    reader = Reader()
    feed = Feed(reader.theirs, Known(), SETTINGS, loaded=True)
    reader.socket.send(b"\xff\xff")  # spoils nothing
    reader.socket.send(messages.encode(Ready()))
    async with asyncio.timeout(60):
        await feed.control.ready
        question = asyncio.create_task(feed.control.ask())
        await reader.until(Ask)
        reader.socket.send(messages.encode(Status(0, {"asked": 1})))  # to an older question
        reader.socket.send(messages.encode(Status(1, {"asked": 2})))
        assert (await question).counters == {"asked": 2}
        reader.socket.close()
        await feed.control.closed.wait()
        with pytest.raises(ServicesError):
            await feed.control.ask()
