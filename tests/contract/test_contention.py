"""Many control planes on one real etcd: each gets a subnet of its own, however few there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlay.control.leases.allocator import Identity
from overlay.control.leases.state import Phase
from overlay.control.plane import ControlPlane, ControlSettings
from overlay.store.contract import Put
from overlay.store.etcd.client import EtcdStore
from overlay.store.etcd.settings import EtcdSettings
from tests.support.etcd import Etcd

pytestmark = pytest.mark.etcd

AGENTS = 200
PATIENCE = 120.0
"""Seconds for all of them in one process on a busy machine; agents of their own take some three."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(tmp_path) as cluster:
        yield cluster


@asynccontextmanager
async def plane(server: Etcd, number: int) -> AsyncIterator[ControlPlane]:
    store = EtcdStore(EtcdSettings(endpoints=server.urls))
    made = ControlPlane(store, ControlSettings(), Identity(f"node{number}", IPv4Address(0xAC1F0000 + number)))
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def holding(made: ControlPlane) -> str:
    state = made.state
    while state.held is None:
        state = await made.changed(state.version)
    return str(state.held.subnet)


async def put_config(server: Etcd, text: bytes) -> None:
    store = EtcdStore(EtcdSettings(endpoints=server.urls))
    await store.commit([], [Put("/coreos.com/network/config", text)])
    await store.close()


async def test_as_many_agents_as_subnets_all_at_once(server: Etcd) -> None:
    """flannel 875: out of subnets under churn; its dead retry loop lets the loser of a race exit."""
    last = IPv4Address("10.0.1.0") + 256 * (AGENTS - 1)
    await put_config(server, f'{{"Network":"10.0.0.0/16","SubnetMin":"10.0.1.0","SubnetMax":"{last}"}}'.encode())
    async with AsyncExitStack() as stack:
        planes = [await stack.enter_async_context(plane(server, number)) for number in range(AGENTS)]
        async with asyncio.timeout(PATIENCE):
            subnets = await asyncio.gather(*map(holding, planes))
        assert len(set(subnets)) == AGENTS

        async with plane(server, AGENTS) as late:
            async with asyncio.timeout(PATIENCE):
                while late.state.phase is not Phase.EXHAUSTED:
                    await late.changed(late.state.version)
                assert any("are leased" in problem.text for problem in late.state.problems)
                await planes[7].release()
                assert await holding(late) == subnets[7]
