"""The etcd store against what happens to real etcd servers: killed, frozen, without quorum, compacted, wiped.

    this process ──loopback──▶ m0  m1  m2      (three members, or one; ports of their own)
                 ──bridge────▶ m0  m1  m2      (each in its network namespace, where packets are to vanish)

The names say which of flannel's complaints a test guards against; the numbers are flannel's issues.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from pathlib import Path

import pytest

from overlay.errors import (
    CompactedError,
    OverlayError,
    StoreDeniedError,
    StoreRestoredError,
    StoreUnavailableError,
    TlsFilesError,
)
from overlay.store.contract import ABSENT, Compare, Delete, Event, Events, KeyRange, Put
from overlay.store.etcd.client import EtcdStore
from overlay.store.recall import Recall
from tests.support.etcd import Authority, Etcd, eventually, following, free_ports
from tests.support.etcd_places import cut, mend, namespaces
from tests.support.store import (
    FAILOVER_LIMIT,
    FROZEN_LIMIT,
    PREFIX,
    SUBNETS,
    connected,
    follow,
    insist,
    key,
    put,
    take,
    the_end,
)

pytestmark = pytest.mark.etcd

TOKEN_TTL = 2
"""Seconds that a user's token lives without being used."""


# --- members ---


async def test_904_1240_members_killed_in_turn_lose_no_write_and_no_event(three: Etcd) -> None:
    """flannel 904, 1240, 621: a lease is lost and the daemon stops when etcd hiccups."""
    async with connected(*three.urls) as store:
        start = (await store.read(SUBNETS)).revision
        async with following(follow(store, start)) as events:
            for number, member in enumerate(three.members):
                member.kill()
                for part in range(4):
                    await insist(store, f"{number}-{part}")
                three.restart(member)
            expected = [key(f"{number}-{part}") for number in range(3) for part in range(4)]
            seen = [await take(events, FROZEN_LIMIT) for _ in expected]
            assert [event.kv.key for event in seen if isinstance(event, Event)] == expected
            assert events.empty()


async def test_a_frozen_leader_delays_calls_and_watches_for_seconds_only(three: Etcd) -> None:
    leader = three.leader()
    others = [member.url for member in three.members if member is not leader]
    async with connected(leader.url) as at_leader, connected(*three.urls) as store, connected(*others) as writer:
        start = (await at_leader.read(SUBNETS)).revision
        watch = at_leader.watch(SUBNETS, start)
        await insist(store, "before")
        async with following(watch) as told, following(follow(store, start)) as events:
            await take(events, FAILOVER_LIMIT)
            leader.freeze()
            began = time.monotonic()
            await insist(store, "during")
            assert time.monotonic() - began < FAILOVER_LIMIT
            assert (await writer.read(SUBNETS)).items[-1].key == key("during")
            event = await take(events, FROZEN_LIMIT)
            assert isinstance(event, Event)
            assert event.kv.key == key("during")
            end = await the_end(told, FROZEN_LIMIT)
            assert isinstance(end, StoreUnavailableError)
            assert leader.url in str(end)
            leader.thaw()


async def test_without_quorum_calls_and_watches_fail_soon_and_go_on_with_it(three: Etcd) -> None:
    kept, *lost = three.members
    async with connected(kept.url) as store:
        start = (await store.read(SUBNETS)).revision
        async with following(store.watch(SUBNETS, start)) as told:
            await insist(store, "before")
            await take(told, FAILOVER_LIMIT)
            for member in lost:
                member.kill()
            end = await the_end(told, FAILOVER_LIMIT)
            assert isinstance(end, StoreUnavailableError)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=r"it has no leader|no answer within 3 s"):
                await store.commit((), (Put(key("without"), b"v"),))
            assert time.monotonic() - began < FAILOVER_LIMIT
            for member in lost:
                three.start(member)
            three.wait()
            await insist(store, "after")
            seen = (await store.read(SUBNETS)).items
            assert {kv.key for kv in seen} >= {key("before"), key("after")}
            async with following(follow(store, start)) as events:
                first = await take(events, FAILOVER_LIMIT)
                assert isinstance(first, Event)
                assert first.kv.key == key("before")


async def test_a_write_that_timed_out_is_not_sent_twice(three: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated transaction would lose against its own first writing, and tell that a lost race."""
    monkeypatch.setattr("overlay.store.etcd.cluster.random.sample", lambda members, count: list(members)[:count])
    leader = three.leader()
    frozen = next(member for member in three.members if member is not leader)
    async with connected(frozen.url, leader.url, timeout=1.0) as store:
        await store.read(SUBNETS)
        assert store.endpoint == frozen.url
        frozen.freeze()
        with pytest.raises(StoreUnavailableError, match="no answer within 1 s"):
            await store.commit((Compare(key("k"), ABSENT),), (Put(key("k"), b"late"),))
        assert store.endpoint == leader.url
        assert (await store.commit((Compare(key("k"), ABSENT),), (Put(key("k"), b"v"),))).succeeded
        frozen.thaw()
        async with connected(frozen.url) as thawed:
            await eventually(lambda: thawed.read(SUBNETS), limit=FAILOVER_LIMIT)
            assert [kv.value for kv in (await thawed.read(SUBNETS)).items] == [b"v"]


async def test_the_endpoint_that_answers_is_remembered_and_said_once(
    three: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="overlay.store")
    urls = [member.url.replace("127.0.0.1", "localhost") for member in three.members]
    async with connected(*urls) as store:
        await store.read(SUBNETS)
        first = store.endpoint
        member = next(member for member in three.members if member.url.endswith(first.rsplit(":", 1)[-1]))
        member.kill()
        await eventually(lambda: store.read(SUBNETS), limit=FAILOVER_LIMIT)
        second = store.endpoint
        assert second != first
        began = time.monotonic()
        for _ in range(20):
            await store.read(SUBNETS)
        assert store.endpoint == second
        assert time.monotonic() - began < FAILOVER_LIMIT
        assert [record.getMessage() for record in caplog.records] == [f"etcd is now used at {second}"]


# --- packets that vanish ---


@pytest.mark.root
async def test_a_partition_is_noticed_and_survived(tmp_path: Path) -> None:
    """Packets vanish without a word, then pass again: the watch ends in time and goes on where it was."""
    with namespaces(1) as places, Etcd(tmp_path / "etcd", places=places) as cluster:
        async with connected(*cluster.urls) as store:
            start = await put(store, "before")
            async with following(store.watch(SUBNETS, start - 1)) as told:
                await take(told, FAILOVER_LIMIT)
                cut(places[0])
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    await store.read(SUBNETS)
                assert time.monotonic() - began < FAILOVER_LIMIT
                assert isinstance(await the_end(told, FROZEN_LIMIT), StoreUnavailableError)
            mend(places[0])
            await eventually(lambda: store.read(SUBNETS), limit=FAILOVER_LIMIT)
            async with following(store.watch(SUBNETS, start)) as told:
                revision = await put(store, "after")
                batch = await take(told, FAILOVER_LIMIT)
                assert isinstance(batch, Events)
                assert [event.kv.mod_revision for event in batch.events] == [revision]


@pytest.mark.root
async def test_a_leader_cut_off_from_its_peers_is_left(tmp_path: Path) -> None:
    """It still answers, and for itself knows nothing new: its watch would be silent for ever, its reads stale."""
    with namespaces(3) as places, Etcd(tmp_path / "etcd", size=3, places=places) as cluster:
        leader = cluster.leader()
        others = [member for member in cluster.members if member is not leader]
        async with connected(leader.url) as at_leader, connected(*cluster.urls) as store:
            start = (await at_leader.read(SUBNETS)).revision
            async with following(at_leader.watch(SUBNETS, start)) as told, following(follow(store, start)) as events:
                await insist(store, "before")
                await take(told, FAILOVER_LIMIT)
                await take(events, FAILOVER_LIMIT)
                cut(leader.place, *(other.place for other in others))
                await insist(store, "during")
                event = await take(events, FAILOVER_LIMIT)
                assert isinstance(event, Event)
                assert event.kv.key == key("during")
                end = await the_end(told, FAILOVER_LIMIT)
                assert str(end) == f"etcd at {leader.url}: it has no leader"
                with pytest.raises(StoreUnavailableError):
                    await at_leader.read(SUBNETS)
                with pytest.raises(StoreUnavailableError):
                    await at_leader.commit((), (Put(key("split"), b"brain"),))
                mend(leader.place)
                await eventually(lambda: at_leader.read(SUBNETS), limit=FAILOVER_LIMIT)
                names = [kv.key for kv in (await at_leader.read(SUBNETS)).items]
                assert names == [key("before"), key("during")]


async def test_connections_are_dropped_on_request_and_whatever_used_them_ends(three: Etcd) -> None:
    """A call that hangs would hold the keeper up; an error of gRPC's own would end the agent."""
    done, failed = 0, 0

    async def calls(store: EtcdStore, until: asyncio.Event) -> None:
        nonlocal done, failed
        lease = 4711
        while not until.is_set():
            for call in (lambda: store.read(SUBNETS), lambda: put(store, "k"), lambda: store.refresh(lease)):
                try:
                    await call()
                    done += 1
                except StoreUnavailableError:
                    failed += 1

    async with connected(*three.urls) as store:
        start = (await store.read(SUBNETS)).revision
        async with following(store.watch(SUBNETS, start)) as told:
            await put(store, "before")
            await take(told, FAILOVER_LIMIT)
            await store.reconnect()
            assert isinstance(await the_end(told, FAILOVER_LIMIT), StoreUnavailableError)
        enough = asyncio.Event()
        tasks = [asyncio.create_task(calls(store, enough)) for _ in range(4)]
        for number in range(60):
            await asyncio.sleep(0.001 * number)
            await store.reconnect()
        enough.set()
        async with asyncio.timeout(FAILOVER_LIMIT):
            await asyncio.gather(*tasks)
        assert done, "between two reconnections calls succeed"
        assert failed, "those under way do not"
        async with following(follow(store, start)) as events:
            revision = await put(store, "after")
            while not (isinstance(event := await take(events, FAILOVER_LIMIT), Event)
                       and event.kv.mod_revision == revision):  # fmt: skip
                assert isinstance(event, Event)


# --- history ---


async def test_compaction_during_an_outage_is_told(single: Etcd) -> None:
    member = single.members[0]
    async with connected(*single.urls) as store:
        start = await put(store, "old")
        async with following(store.watch(SUBNETS, start)) as told:
            await put(store, "seen")
            await take(told, FAILOVER_LIMIT)
            member.kill()
            assert isinstance(await the_end(told, FAILOVER_LIMIT), StoreUnavailableError)
        single.restart(member)
        await eventually(lambda: store.read(SUBNETS))
        await store.commit((), (Delete(key("seen")),))
        newest = await put(store, "new")
        single.ctl("compaction", str(newest))
        async with following(store.watch(SUBNETS, start + 1)) as told:
            end = await the_end(told, FAILOVER_LIMIT)
            assert isinstance(end, CompactedError)
            assert end.revision == newest
        snapshot = await store.read(SUBNETS)
        assert [kv.key for kv in snapshot.items] == [key("new"), key("old")]
        async with following(store.watch(SUBNETS, snapshot.revision)) as told:
            await put(store, "newer")
            batch = await take(told, FAILOVER_LIMIT)
            assert isinstance(batch, Events)
            assert [event.kv.key for event in batch.events] == [key("newer")]


async def test_no_deletion_is_missed_at_the_revision_of_a_compaction(single: Etcd) -> None:
    """etcd 3.4.23, watched from exactly the compacted revision, leaves out a deletion in it: a peer would stay."""
    async with connected(*single.urls) as store:
        before = await put(store, "k")
        deleted = (await store.commit((), (Delete(key("k")),))).revision
        await put(store, "other")
        single.ctl("compaction", str(deleted))
        async with following(store.watch(SUBNETS, before)) as told:
            assert isinstance(await the_end(told, FAILOVER_LIMIT), CompactedError)


@pytest.mark.parametrize("refilled", [0, 50], ids=["empty", "filled-past-our-revision"])
async def test_a_store_restored_empty_is_told(single: Etcd, refilled: int) -> None:
    """A watch from a revision of the lost past would wait for ever; its peers would never be learned."""
    member = single.members[0]
    member.stop()
    single.restart(member)  # a store that has lived: its raft term is not the first
    async with connected(*single.urls) as store:
        await eventually(lambda: store.read(SUBNETS))
        for number in range(5):
            after = await put(store, number)
        async with following(store.watch(SUBNETS, after)) as told:
            await put(store, "seen")
            await take(told, FAILOVER_LIMIT)
            member.kill()
            member.wipe()
            single.restart(member)
            assert isinstance(await the_end(told, FAILOVER_LIMIT), StoreUnavailableError)
        await eventually(lambda: put(store, "first"), limit=FAILOVER_LIMIT)
        for number in range(refilled):
            await put(store, number)
        async with following(store.watch(SUBNETS, after + 1)) as told:
            end = await the_end(told, FAILOVER_LIMIT)
            assert isinstance(end, StoreRestoredError)
        snapshot = await store.read(SUBNETS)
        assert len(snapshot.items) == refilled + 1
        async with following(store.watch(SUBNETS, snapshot.revision)) as told:
            await put(store, "again")
            await take(told, FAILOVER_LIMIT)


@pytest.mark.parametrize("restored", [False, True], ids=["restarted", "restored"])
async def test_a_restarted_member_proves_its_past_and_a_restored_one_cannot(
    single: Etcd, tmp_path: Path, restored: bool
) -> None:
    """Same cluster id, no lower term, past the revision that we had: only what the keys were tells the two apart."""
    member, backup = single.members[0], tmp_path / "backup"

    def facts() -> dict[str, int]:
        return dict(json.loads(single.ctl("endpoint", "status", "--write-out=json"))[0]["Status"]["header"])

    async with connected(*single.urls) as store:
        for number in range(50):
            await put(store, number)
        single.ctl("snapshot", "save", str(backup))
        await put(store, "lost")
        before, known = facts(), await store.read(SUBNETS)
    member.kill()
    if restored:
        single.restore(backup)
    single.restart(member)
    async with connected(*single.urls) as store:
        for number in range(3):
            await eventually(lambda name=f"new{number}": put(store, name))  # type: ignore[misc]
        after = facts()
        assert after["cluster_id"] == before["cluster_id"]
        assert after["revision"] > before["revision"]
        assert after["raft_term"] >= before["raft_term"]
        recall = Recall.of(known.items, known.revision)
        async with following(store.watch(SUBNETS, known.revision)) as told:
            assert await asyncio.wait_for(told.get(), FAILOVER_LIMIT) == Events(known.revision, ())
            past = await store.recall(SUBNETS, recall.revision, recall.keys)
            assert recall.agrees(past) is not restored
            batch = await take(told, FAILOVER_LIMIT)
            assert isinstance(batch, Events)
            assert batch.events[0].kv.key == key("new1" if restored else "new0")


# --- who we are ---


async def test_343_432_718_a_ca_alone_is_enough_for_tls(tmp_path: Path) -> None:
    """flannel 343, 432, 718: flanneld ignores a CA without a client certificate."""
    authority, stranger = Authority.make(tmp_path / "tls"), Authority.make(tmp_path / "tls", "stranger")
    with Etcd(tmp_path / "etcd", size=3, authority=authority) as cluster:
        names = [url.replace("127.0.0.1", "localhost") for url in cluster.urls]
        async with connected(*names, cafile=str(authority.ca)) as store:
            await put(store, "k")
            cluster.members[0].kill()
            await insist(store, "another")
            assert len((await store.read(SUBNETS)).items) == 2
        async with connected(*names, cafile=str(stranger.ca)) as store:
            with pytest.raises(StoreUnavailableError, match=r"not signed by a trusted CA.*--etcd-cafile"):
                await store.read(SUBNETS)
        async with connected(cluster.urls[1].replace("https", "http")) as store:
            with pytest.raises(StoreUnavailableError, match="closed the connection"):
                await store.read(SUBNETS)


@pytest.mark.parametrize(
    ("common", "alternatives"), [("server", ""), ("server", "DNS:etcd.example"), ("127.0.0.1", "")]
)
async def test_a_certificate_for_another_name_or_for_none_says_so(
    tmp_path: Path, common: str, alternatives: str
) -> None:
    """As flanneld's client does, ours looks at subjectAltName only; once a common name was enough."""
    authority = Authority.make(tmp_path / "tls")
    certificate, key = authority.issue(common, alternatives)
    client, peer = free_ports(2)
    url, peer_url = f"https://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    server = await asyncio.create_subprocess_exec(
        "etcd", f"--data-dir={tmp_path}/data", f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}", f"--cert-file={certificate}", f"--key-file={key}",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    told = "its certificate is for another name or address, or for none"
    try:
        async with connected(url, cafile=str(authority.ca)) as store:

            async def is_told() -> bool:
                try:
                    await store.read(SUBNETS)
                except StoreUnavailableError as error:
                    return told in error.cause and "subjectAltName" in error.remedy
                return False

            await eventually(is_told)
    finally:
        server.kill()
        await server.wait()


async def test_client_certificates_and_their_renewal_on_disk(tmp_path: Path) -> None:
    authority, stranger = Authority.make(tmp_path / "tls"), Authority.make(tmp_path / "strange")
    certificate, private = stranger.issue("client")
    files = {"cafile": str(authority.ca), "certfile": str(certificate), "keyfile": str(private)}
    with Etcd(tmp_path / "etcd", authority=authority, ask_for_certificate=True) as cluster:
        async with connected(*cluster.urls, cafile=str(authority.ca)) as store:
            with pytest.raises(StoreDeniedError, match=r"client certificate.*--etcd-certfile"):
                await store.read(SUBNETS)
        async with connected(*cluster.urls, **files) as store:
            with pytest.raises(StoreDeniedError, match="client certificate"):
                await store.read(SUBNETS)
            for new, old in zip(authority.issue("client"), (certificate, private), strict=True):
                new.replace(old)
            await eventually(lambda: put(store, "k"), limit=FAILOVER_LIMIT)


@pytest.mark.parametrize("early", ["", "-----BEGIN CERT"], ids=["missing", "half written"])
async def test_tls_files_that_come_later(tmp_path: Path, early: str) -> None:
    """At boot they may be on a disk that is not mounted yet, or still to be written by what renews them."""
    authority = Authority.make(tmp_path / "tls")
    certificate, private = authority.issue("client")
    late = {name: tmp_path / f"{name}.pem" for name in ("cafile", "certfile", "keyfile")}
    for path in late.values():
        if early:
            path.write_text(early)
    with Etcd(tmp_path / "etcd", authority=authority, ask_for_certificate=True) as cluster:
        async with connected(*cluster.urls, **{name: str(path) for name, path in late.items()}) as store:
            for name, source in (("cafile", authority.ca), ("certfile", certificate), ("keyfile", private)):
                with pytest.raises(TlsFilesError, match=f"--etcd-{name}"):
                    await put(store, "k")
                shutil.copy(source, late[name])
            await put(store, "k")


async def test_a_password_whose_token_expires(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The token is renewed when it expires and when its server was restarted, also for a watch."""
    caplog.set_level(logging.INFO, logger="overlay.store")
    authority = Authority.make(tmp_path / "tls")
    with Etcd(tmp_path / "etcd", size=3, authority=authority, options=("--auth-token-ttl", str(TOKEN_TTL))) as cluster:
        cluster.ask_for_password("flannel", "s3cret", PREFIX)
        login = {"cafile": str(authority.ca), "username": "flannel", "password": "s3cret"}
        async with connected(*cluster.urls, **login) as store:
            start = (await store.read(SUBNETS)).revision
            async with following(follow(store, start)) as events:
                for number in range(3):
                    await put(store, number)
                    event = await take(events, FAILOVER_LIMIT)
                    assert isinstance(event, Event)
                    assert event.kv.key == key(number)
                    await asyncio.sleep(TOKEN_TTL + 1)  # nothing tells that a token has expired, but using it
                for member in cluster.members:
                    member.kill()
                for member in cluster.members:
                    cluster.start(member)
                cluster.wait()
                await insist(store, "restarted")
                event = await take(events, FAILOVER_LIMIT)
                assert isinstance(event, Event)
                assert event.kv.key == key("restarted")
            lease = 4711
            await store.grant(lease, 60)
            await asyncio.sleep(TOKEN_TTL + 1)
            assert await store.refresh(lease) == 60
            with pytest.raises(StoreDeniedError, match=r"permission denied.*grant the user's role"):
                await store.commit((), (Put("/elsewhere", b"v"),))
            with pytest.raises(StoreDeniedError, match="permission denied"):
                await anext(store.watch(KeyRange("/elsewhere"), start))
            assert "s3cret" not in caplog.text
        async with connected(*cluster.urls, **(login | {"password": "wrong"})) as store:
            with pytest.raises(StoreDeniedError, match=r"wrong user or password.*--etcd-password"):
                await store.read(SUBNETS)
        async with connected(*cluster.urls, cafile=str(authority.ca)) as store:
            with pytest.raises(StoreDeniedError, match="asks for a user"):
                await store.read(SUBNETS)


async def test_authentication_that_is_turned_on_later(single: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(*single.urls, username="flannel", password="s3cret") as store:
        await put(store, "before")
        single.ask_for_password("flannel", "s3cret", PREFIX)
        await put(store, "after")
        assert len((await store.read(SUBNETS)).items) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "etcd does not ask for a user: --etcd-username is not used until it does"
    ]


async def test_starting_while_etcd_is_away(single: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="overlay.store")
    member = single.members[0]
    member.kill()
    async with connected(*single.urls) as store:
        for _ in range(3):
            with pytest.raises(OverlayError, match=f"etcd at {member.url}: connection refused"):
                await store.read(SUBNETS)
        single.restart(member)
        await eventually(lambda: put(store, "k"), limit=FAILOVER_LIMIT)
    assert caplog.records == [], "whoever calls tells it"
