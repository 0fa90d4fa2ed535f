"""The shell of the mode: reads what there is, and carries differences out."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from overlay.errors import NodeError, OverlayError, PrivilegeError
from overlay.linux import ipvs
from overlay.linux.ipvs import Ipvs, Service, Virtual
from overlay.problem import Problem
from overlay.services.proxy.base import Applied, Mode
from overlay.services.proxy.ipvs import device, settings
from overlay.services.proxy.ipvs.device import LocalAddresses
from overlay.services.proxy.ipvs.plan import DeleteServer, DeleteService, Operation, Plan, SetService
from overlay.services.proxy.ipvs.wanted import DEFAULT, SCHEDULERS, claims_of, local_addresses, remark
from overlay.services.table import Entry, PortName, Table

DEVICE = "overlay-ipvs0"

LEAVING_SECONDS = 10.0
"""From one look to the next whether the connections of a server that is not wanted have ended."""

_NOWHERE = Virtual("TCP", "192.0.2.1", 9)
"""Of RFC 5737: where the probe makes a virtual service, and removes it."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What was done in IPVS, and what is to be local afterwards. ``unsettled``: it is to be looked at again."""

    changes: int
    local: frozenset[str]
    problems: tuple[Problem, ...]
    unsettled: bool


class IpvsMode:
    """Services through IPVS (:class:`~overlay.services.proxy.base.Mode`).

    Args:
        beneath: the mode for what IPVS does not do, told what it does (:func:`.wanted.is_carried`).
        scheduler: of Services that ask for none; empty: rr.
    """

    name = "ipvs"

    def __init__(self, beneath: Mode, scheduler: str = "") -> None:
        self.stands_on = (beneath.name, *beneath.stands_on)
        self._beneath = beneath
        self._scheduler = scheduler
        self._schedulers = frozenset(SCHEDULERS)
        self._plan: Plan | None = None
        self._table: Table | None = None
        self._local: dict[PortName, frozenset[str]] = {}
        self._users: Counter[str] = Counter()
        self._held: frozenset[str] = frozenset()
        self._before: dict[str, int] = {}
        """IPVS's settings that were changed, as they were: the device may be made anew, whoever removed it."""

    async def probe(self) -> str:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        return await asyncio.to_thread(self._probe) or await self._beneath.probe()

    def _probe(self) -> str:
        try:
            with Ipvs() as door:
                refused = {each: why for each in SCHEDULERS if (why := _refusal(door, each))}
        except OverlayError as error:
            return str(error)
        self._schedulers = frozenset(SCHEDULERS) - refused.keys()
        return refused.get(DEFAULT, "") or settings.why_not()

    async def apply(self, table: Table) -> Applied:
        """IPVS first, then the rules, then local addresses; what is taken away, in the contrary order.

        So an address is the node's own only while the rules refuse what is none of its ports: a process that listens at
        all addresses is never met there.
        """
        try:
            prepared = await asyncio.to_thread(self._prepare, table)
            beneath = await self._beneath.apply(table)
            changes = prepared.changes + await asyncio.to_thread(self._make_local, prepared.local)
        except BaseException:
            self._plan = self._table = None
            raise
        self._table = table
        due = [each for each in (beneath.due, LEAVING_SECONDS if prepared.unsettled else None) if each is not None]
        return Applied(
            beneath.changes + changes, (*beneath.problems, *prepared.problems), min(due, default=None)
        )  # fmt: skip

    def _prepare(self, table: Table) -> _Prepared:
        """IPVS as it should be, and no address local that should not be."""
        plan = self._plan
        with Ipvs() as door:
            if plan is None:
                self._adopt()
                plan = self._plan = Plan(door.services())
                self._local, self._users = {}, Counter()
                before = None
            else:
                before = self._table
                if plan.unsettled:
                    plan.looked(ipvs.listed())
            for name, entry in _looked_at(table, before):
                self._want(plan, table, name, entry)
            changes, problems = 0, []
            for operation in plan.operations():
                changes += 1
                try:
                    _carry_out(door, operation)
                except PrivilegeError:
                    raise
                except NodeError as error:  # one address; all others are met
                    plan.failed(operation.virtual)
                    problems.append(Problem.of(error, "proxy"))
        problems += [_taken(each) for each in sorted(plan.others)]
        local = frozenset(self._users)
        changes += self._make_local(self._held & local)
        return _Prepared(changes, local, tuple(problems), plan.unsettled)

    def _want(self, plan: Plan, table: Table, name: PortName, entry: Entry | None) -> None:
        before = self._local.pop(name, frozenset())
        now = frozenset[str]()
        if entry is None:
            plan.want(name, {})
        else:
            plan.want(name, claims_of(entry, table.place, self._scheduler or DEFAULT, self._schedulers))
            now = self._local[name] = local_addresses(entry, table.place)
        self._users.update(now)
        self._users.subtract(before)
        for each in before:
            if not self._users[each]:
                del self._users[each]

    def _adopt(self) -> None:
        """The device, and IPVS's settings, as they should be."""
        with LocalAddresses(DEVICE) as local:
            found = settings.read()
            link = local.make(settings.as_note({**found, **self._before}))
            self._before = settings.from_note(local.note())
        settings.write({name: value for name, value in settings.WANTED.items() if found[name] != value})
        self._held = device.addresses(link)

    def _make_local(self, wanted: frozenset[str]) -> int:
        """Exactly these; returns how many that changed."""
        gone, new = self._held - wanted, wanted - self._held
        if gone or new:
            with LocalAddresses(DEVICE) as local:
                if (link := local.device()) is None:
                    raise NodeError("somebody removed it", about=DEVICE, remedy="it is made again")
            device.change(link, delete=gone, add=new)
            self._held = wanted
        return len(gone) + len(new)

    async def check(self) -> bool:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        whole = self._plan is not None and await asyncio.to_thread(self._is_whole, self._plan)
        if not whole:
            self._plan = self._table = None
        return await self._beneath.check() and whole

    def _is_whole(self, plan: Plan) -> bool:
        with contextlib.suppress(NodeError), LocalAddresses(DEVICE) as local:
            link = local.device()
            if link is None or device.addresses(link) != self._held or settings.as_note(settings.read()):
                return False
            there = ipvs.listed()
            return all(virtual in there and _gist(there[virtual]) == _gist(each) for virtual, each in plan.held.items())
        return False

    async def remove(self) -> list[str]:
        """See :class:`~overlay.services.proxy.base.Mode`. Loads no module."""
        self._plan = self._table = None
        return await asyncio.to_thread(_remove)

    async def close(self) -> None:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        await self._beneath.close()

    def remarks(self, entry: Entry) -> tuple[str, ...]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        told = remark(entry, self._scheduler, self._schedulers)
        return (told,) if told else ()

    def facts(self) -> Mapping[str, object]:
        """See :class:`~overlay.services.proxy.base.Mode`."""
        held = {} if self._plan is None else self._plan.held
        return {
            "virtual_services": len(held),
            "servers": sum(len(each.servers) for each in held.values()),
            "local_addresses": len(self._held),
            "schedulers": sorted(self._schedulers),
            "beneath": {"mode": self._beneath.name, **self._beneath.facts()},
        }


def _looked_at(table: Table, before: Table | None) -> list[tuple[PortName, Entry | None]]:
    """Entries that may want something else than before; all where the node is at another place."""
    if before is None or before.place == table.place:
        return [(name, entry) for name, _, entry in table.changed(before)]
    gone = before.entries.keys() - table.entries.keys()
    return [*((name, None) for name in gone), *table.entries.items()]


def _carry_out(door: Ipvs, operation: Operation) -> None:
    virtual = operation.virtual
    if isinstance(operation, SetService):
        (door.add_service if operation.new else door.set_service)(virtual, operation.scheduler, operation.persistence)
    elif isinstance(operation, DeleteService):
        door.delete_service(virtual)
    elif isinstance(operation, DeleteServer):
        door.delete_server(virtual, operation.real)
    else:
        (door.add_server if operation.new else door.set_server)(virtual, operation.real, operation.weight)


def _gist(service: Service) -> object:
    """What is the same for as long as nobody else changes it."""
    weights = {real: server.weight for real, server in service.servers.items()}
    return service.scheduler, service.persistence, weights


def _refusal(door: Ipvs, scheduler: str) -> str:
    """Why the kernel does not have a scheduler; empty where it has."""
    try:
        door.delete_service(_NOWHERE)
        door.add_service(_NOWHERE, scheduler, None)
    except NodeError as error:
        return str(error)
    door.delete_service(_NOWHERE)
    return ""


def _taken(virtual: Virtual) -> Problem:
    sentence = f"{virtual} is somebody else's virtual service (ipvsadm -Ln), so the Service of this address is not met"
    return Problem("proxy", sentence, "remove it there, or give the Service another address", about=str(virtual))


def _remove() -> list[str]:
    removed = []
    if ipvs.is_loaded():
        with Ipvs() as door:
            ours = [virtual for virtual, each in door.services().items() if each.ours]
            for virtual in ours:
                door.delete_service(virtual)
        removed += [f"{len(ours)} virtual services of IPVS"] if ours else []
    with LocalAddresses(DEVICE) as local:
        if local.device() is not None:
            if ipvs.is_loaded():
                settings.write(settings.from_note(local.note()))
            local.remove()
            removed.append(f"interface {DEVICE}")
    return removed
