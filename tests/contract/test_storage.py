"""Objects in a store: memory and the real etcd alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from overlay.errors import ConfigError
from overlay.services.expiry import SHARED_SECONDS
from overlay.services.keys import Keys
from overlay.services.objects.document import Object, copy
from overlay.services.objects.kinds import ENDPOINTS, EVENT, NAMESPACE, POD, SERVICE
from overlay.services.objects.selectors import selector
from overlay.services.objects.status import StatusError
from overlay.services.storage import Storage, make_token
from overlay.store.contract import KeyRange, Put
from tests.contract.conftest import World
from tests.unit.services.support import service


@pytest_asyncio.fixture
async def storage(world: World) -> Storage:
    return Storage(world.store, Keys(world.prefix))


async def refused(work: Any, code: int, told: str = "") -> StatusError:
    with pytest.raises(StatusError) as raised:
        await work
    assert raised.value.code == code, raised.value
    assert told in raised.value.message
    return raised.value


async def keys(storage: Storage, prefix: str = "") -> dict[str, str]:
    """All keys below the prefix, and what is there, but for objects."""
    found = await storage.store.read(KeyRange(storage.keys.root + prefix))
    return {item.key.removeprefix(storage.keys.root): item.value.decode() for item in found.items}


async def test_a_service_is_made_read_changed_and_deleted(storage: Storage) -> None:
    created = await storage.create(SERVICE, "default", service())
    address = created["spec"]["clusterIP"]
    assert await keys(storage, "addresses/") == {f"addresses/{address}": "default/redis"}
    assert await storage.get(SERVICE, "default", "redis") == created

    def change(old: Object) -> Object:
        new = copy(old)
        new["spec"]["type"] = "NodePort"
        return new

    changed = await storage.update(SERVICE, "default", "redis", change)
    assert int(changed["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    assert changed["spec"]["clusterIP"] == address
    number = changed["spec"]["ports"][0]["nodePort"]
    assert await keys(storage, "ports/") == {f"ports/{number}": "default/redis"}
    deleted = await storage.delete(SERVICE, "default", "redis")
    assert int(deleted["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])
    assert await keys(storage, "addresses/") == await keys(storage, "ports/") == {}
    await refused(storage.get(SERVICE, "default", "redis"), 404, 'services "redis" not found')


async def test_what_changes_nothing_makes_no_revision(storage: Storage) -> None:
    created = await storage.create(SERVICE, "default", service())
    before = await storage.revision()
    assert await storage.update(SERVICE, "default", "redis", copy) == created
    assert await storage.update(SERVICE, "default", "redis", lambda _: service()) == created
    assert await storage.revision() == before


async def test_a_stale_version_is_a_conflict_and_none_is_retried(storage: Storage) -> None:
    created = await storage.create(SERVICE, "default", service())

    def labelled(old: Object, **labels: str) -> Object:
        new = copy(old)
        new["metadata"].setdefault("labels", {}).update(labels)
        return new

    await storage.update(SERVICE, "default", "redis", lambda old: labelled(old, a="1"))
    await refused(storage.update(SERVICE, "default", "redis", lambda _: labelled(created, b="2")), 409, "modified")
    without = labelled(created, b="2")
    del without["metadata"]["resourceVersion"]
    changed = await storage.update(SERVICE, "default", "redis", lambda _: without)
    assert changed["metadata"]["labels"] == {"b": "2"}


async def test_writers_at_once_lose_nothing(storage: Storage) -> None:
    await storage.create(SERVICE, "default", service())

    async def add(number: int) -> None:
        def change(old: Object) -> Object:
            new = copy(old)
            new["metadata"].setdefault("labels", {})[f"n{number}"] = "x"
            return new

        await storage.update(SERVICE, "default", "redis", change)

    await asyncio.gather(*(add(number) for number in range(5)))
    found = await storage.get(SERVICE, "default", "redis")
    assert found["metadata"]["labels"] == {f"n{number}": "x" for number in range(5)}


async def test_services_made_at_once_never_share_an_address_or_a_port(storage: Storage, world: World) -> None:
    await world.store.commit(
        (), (Put(storage.keys.config, b'{"serviceCIDR":"10.9.0.0/28","nodePorts":"30000-30009"}'),)
    )
    await storage.prepare()
    made = await asyncio.gather(
        *(storage.create(SERVICE, "default", service(f"s{number}", type="NodePort")) for number in range(6))
    )
    assert len({each["spec"]["clusterIP"] for each in made}) == 6
    assert len({each["spec"]["ports"][0]["nodePort"] for each in made}) == 6
    assert len(await keys(storage, "addresses/")) == len(await keys(storage, "ports/")) == 6


async def test_a_dry_run_takes_nothing_and_tells_what_would_be_taken(storage: Storage) -> None:
    await storage.prepare()
    before = await storage.revision()
    dry = await storage.create(SERVICE, "default", service(), dry_run=True)
    assert await storage.revision() == before
    created = await storage.create(SERVICE, "default", service())
    assert created["spec"] == dry["spec"]
    await refused(storage.create(SERVICE, "default", service(), dry_run=True), 409, "already exists")
    before = await storage.revision()
    changed = await storage.update(SERVICE, "default", "redis", lambda _: service(type="NodePort"), dry_run=True)
    assert changed["spec"]["ports"][0]["nodePort"]
    await storage.delete(SERVICE, "default", "redis", dry_run=True)
    assert await storage.revision() == before


async def test_what_is_refused_leaves_nothing(storage: Storage) -> None:
    await storage.prepare()
    before = await keys(storage)
    await refused(storage.create(SERVICE, "nowhere", service()), 404, 'namespaces "nowhere" not found')
    await refused(storage.create(SERVICE, "default", service(type="NodePrt")), 422, "Unsupported value")
    await refused(storage.create(SERVICE, "default", service(clusterIP="10.1.1.1")), 422, "not in the valid range")
    await refused(storage.update(SERVICE, "default", "x", copy), 404)
    await refused(storage.delete(SERVICE, "default", "x"), 404)
    await refused(storage.delete(NAMESPACE, "", "default"), 403, "may not be deleted")
    assert await keys(storage) == before


async def test_a_name_is_taken_once(storage: Storage) -> None:
    await storage.create(SERVICE, "default", service())
    await refused(storage.create(SERVICE, "default", service()), 409, 'services "redis" already exists')
    assert len(await keys(storage, "addresses/")) == 1


async def test_preconditions_of_a_deletion(storage: Storage) -> None:
    created = await storage.create(SERVICE, "default", service())
    await refused(storage.delete(SERVICE, "default", "redis", uid="other"), 409, "Precondition failed: UID")
    await refused(storage.delete(SERVICE, "default", "redis", version="1"), 409, "ResourceVersion in precondition")
    await storage.delete(SERVICE, "default", "redis", uid=created["metadata"]["uid"])


async def test_a_namespace_goes_with_all_that_it_has(storage: Storage) -> None:
    await storage.create(NAMESPACE, "", {"metadata": {"name": "team"}})
    await storage.create(SERVICE, "team", service())
    await storage.create(ENDPOINTS, "team", {"metadata": {"name": "redis"}})
    await storage.create(SERVICE, "default", service())
    await storage.delete(NAMESPACE, "", "team")
    assert [name for name in await keys(storage) if "team" in name] == []
    assert [each["metadata"]["namespace"] for each in (await storage.list(SERVICE)).items] == ["default"]
    assert len(await keys(storage, "addresses/")) == 1
    await refused(storage.create(SERVICE, "team", service()), 404)


async def test_a_namespace_goes_while_its_content_goes_by_itself(storage: Storage, world: World) -> None:
    """As where two delete it, or an Event's time is up."""
    await storage.create(NAMESPACE, "", {"metadata": {"name": "team"}})
    for name in ("a", "b", "c"):
        await storage.create(SERVICE, "team", service(name))
    another = Storage(world.store, storage.keys)
    listed = storage.list

    async def overtaken(*args: Any, **options: Any) -> Any:
        found = await listed(*args, **options)
        if found.items:
            await another.delete(SERVICE, "team", "b")
        return found

    storage.list = overtaken  # type: ignore[method-assign]
    await storage.delete(NAMESPACE, "", "team")
    assert [name for name in await keys(storage) if "team" in name] == []


async def test_an_event_lives_for_an_hour_from_when_it_was_written_last(storage: Storage) -> None:
    def event(name: str, count: int = 1) -> Object:
        return {"metadata": {"name": name}, "involvedObject": {"kind": "Service"}, "count": count}

    async def left(name: str) -> int:
        (found,) = (await storage.store.read(KeyRange(storage.keys.object("events", "default", name), False))).items
        return await storage.store.time_to_live(found.lease_id) if found.lease_id else 0

    for name in ("a", "b"):
        await storage.create(EVENT, "default", event(name))
        assert EVENT.ttl - 60 < await left(name) <= EVENT.ttl + SHARED_SECONDS
    found = await storage.store.read(KeyRange(storage.keys.objects("events")))
    (shared,) = {each.lease_id for each in found.items}
    await Storage(storage.store, storage.keys).update(EVENT, "default", "a", lambda _: event("a", 2))
    await storage.store.revoke(shared)  # as where etcd was restored to before it was granted
    assert [each["metadata"]["name"] for each in (await storage.list(EVENT)).items] == ["a"]
    assert await left("a") > EVENT.ttl - 60
    await storage.create(EVENT, "default", event("b"))
    assert await left("b") > EVENT.ttl - 60


async def test_the_ends_of_the_service_range_are_nobodys(storage: Storage) -> None:
    for address in ("10.96.0.0", "10.111.255.255"):
        await refused(storage.create(SERVICE, "default", service(clusterIP=address)), 422, "is not in the valid range")
    await storage.create(SERVICE, "default", service(clusterIP="10.111.255.254"))


async def test_a_health_check_port_is_a_node_port_like_others(storage: Storage) -> None:
    def balanced(name: str, health: int, **port: int) -> Object:
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health}
        return service(name, **spec, ports=[{"port": 80, **port}])

    await storage.create(SERVICE, "default", service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30001}]))
    told = "spec.healthCheckNodePort: Invalid value: 30001: provided port is already allocated"
    await refused(storage.create(SERVICE, "default", balanced("b", 30001)), 422, told)
    await refused(storage.create(SERVICE, "default", balanced("b", 30002, nodePort=30002)), 422, "already allocated")
    await refused(storage.create(SERVICE, "default", balanced("b", 80)), 422, "not in the valid range")
    made = await storage.create(SERVICE, "default", balanced("b", 30002))
    assert (await keys(storage, "ports/")).keys() >= {"ports/30001", "ports/30002"}
    await storage.update(SERVICE, "default", "b", lambda _: made)


async def test_a_list_in_parts_is_of_one_revision(storage: Storage, world: World) -> None:
    for name in "abcde":
        await storage.create(SERVICE, "default", service(name))
    first = await storage.list(SERVICE, limit=2)
    assert first.remaining == 3
    await storage.delete(SERVICE, "default", "d")
    await storage.create(SERVICE, "default", service("f"))
    second = await storage.list(SERVICE, limit=2, token=first.token)
    third = await storage.list(SERVICE, limit=2, token=second.token)
    found = [each["metadata"]["name"] for part in (first, second, third) for each in part.items]
    assert found == ["a", "b", "c", "d", "e"]
    assert {first.revision, second.revision, third.revision} == {first.revision}
    assert third.token == ""
    await world.compact(await storage.revision())
    await refused(storage.list(SERVICE, limit=2, token=first.token), 410, "too old")


async def test_a_selector_goes_on_until_there_are_enough(storage: Storage) -> None:
    for number in range(8):
        await storage.create(SERVICE, "default", service(f"s{number}", selector={"odd": str(number % 2)}))
        if number % 2:
            await storage.update(
                SERVICE,
                "default",
                f"s{number}",
                lambda old: {**old, "metadata": {**old["metadata"], "labels": {"o": "1"}}},
            )
    takes = selector(SERVICE, "o=1", "")
    first = await storage.list(SERVICE, "default", limit=3, takes=takes)
    rest = await storage.list(SERVICE, "default", limit=3, takes=takes, token=first.token)
    assert [each["metadata"]["name"] for each in first.items + rest.items] == ["s1", "s3", "s5", "s7"]
    assert rest.token == ""


@pytest.mark.parametrize("token", ["x", "e30=", "bm8=", "eyJydiI6MSwiayI6Ii9lbHNld2hlcmUvIn0="])
async def test_a_token_that_is_none(storage: Storage, token: str) -> None:
    await refused(storage.list(SERVICE, limit=2, token=token), 400, "continue key is not valid")


async def test_a_token_of_a_revision_that_there_is_not(storage: Storage) -> None:
    await storage.create(SERVICE, "default", service())
    folder = storage.keys.objects("services")
    for revision, code in ((2**62, 410), (2**63, 400), (2**200, 400), (0, 400)):
        await refused(storage.list(SERVICE, limit=2, token=make_token(revision, folder)), code)


async def test_malformed_values_hide_nothing(storage: Storage) -> None:
    await storage.create(SERVICE, "default", service())
    bad = storage.keys.object("services", "default", "bad")
    await storage.store.commit((), (Put(bad, b"{"), Put(bad + "2", b'{"metadata":{}}')))
    assert [each["metadata"]["name"] for each in (await storage.list(SERVICE)).items] == ["redis"]


async def test_pods_are_found_by_namespace_and_name(storage: Storage) -> None:
    def pod(name: str, namespace: str) -> bytes:
        return f'{{"kind":"Pod","metadata":{{"name":"{name}","namespace":"{namespace}"}}}}'.encode()

    await storage.store.commit(
        (), tuple(Put(storage.keys.pod("n1", f"{i}"), pod("web", space)) for i, space in enumerate(("a", "b")))
    )
    assert len((await storage.list(POD)).items) == 2
    assert (await storage.get(POD, "b", "web"))["metadata"]["namespace"] == "b"
    await refused(storage.get(POD, "c", "web"), 404, 'pods "web" not found')


async def test_a_configuration_that_is_no_use_is_told(storage: Storage) -> None:
    await storage.prepare()
    await storage.store.commit((), (Put(storage.keys.config, b"{"),))
    with pytest.raises(ConfigError, match="is no JSON"):
        await storage.create(SERVICE, "default", service())


async def test_an_object_larger_than_etcd_takes_is_refused(storage: Storage) -> None:
    subsets = [{"addresses": [{"ip": "10.0.0.1", "hostname": "h" * 60}] * 20_000}]
    await refused(storage.create(ENDPOINTS, "default", {"metadata": {"name": "e"}, "subsets": subsets}), 413)
