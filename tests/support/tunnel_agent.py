"""One node's datapath as a process, told what to do by lines of JSON: ``python -m tests.support.tunnel_agent KIND``.

It stands in for the agent where a test needs to kill a datapath, or to set its peers by hand. Commands, each answered
by one line: ``{"do": "configure", …}``, ``{"do": "peers", …}``, ``{"do": "status"}``, ``{"do": "repair"}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from overlay.backends.udp import device
from overlay.datapath.base import Datapath
from overlay.datapath.causes import Minute, judge, slow_path_share
from overlay.datapath.kernel.datapath import KernelDatapath
from overlay.datapath.kernel.fou import Wish
from overlay.datapath.kernel.programs import OBJECT
from overlay.datapath.spec import TunnelSpec
from overlay.datapath.userspace.datapath import UserspaceDatapath
from overlay.datapath.userspace.queues import Offloads
from overlay.errors import OverlayError
from overlay.linux.netlink import Netlink
from overlay.model import Peer, PeerTable

WINDOW = 1.0
"""Seconds instead of the agent's minute."""
OFFLOADS = {"kernel": Offloads.CHECKSUMS, "kernel-fou": Offloads.CHECKSUMS, "userspace-plain": Offloads.NONE}


class Agent:
    """Carries out commands on one datapath."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._watching: asyncio.Task[None] | None = None
        self._minute = Minute(WINDOW)

    async def configure(self, command: dict[str, Any]) -> dict[str, Any]:
        spec = TunnelSpec(
            device="flannel0",
            network=IPv4Network("10.0.0.0/16"),
            subnet=IPv4Network(command["subnet"]),
            mtu=command["mtu"],
            underlay_interface=command["underlay"],
            underlay_address=IPv4Address(command["address"]),
            port=command.get("port", 8285),
            copy_dscp=command.get("copy_dscp", False),
        )
        await self._datapath.configure(spec)
        await asyncio.to_thread(self._set_up, spec)
        if self._watching is None:
            self._watching = asyncio.create_task(self._datapath.watch())
        return {}

    def _set_up(self, spec: TunnelSpec) -> None:
        """As the agent does."""
        with Netlink() as netlink:
            device.reconcile(spec, netlink)

    async def peers(self, command: dict[str, Any]) -> dict[str, Any]:
        peers = [Peer(IPv4Network(subnet), IPv4Address(address)) for subnet, address in command["peers"].items()]
        self._datapath.set_peers(PeerTable.of(IPv4Network(command["subnet"]), peers))
        return {}

    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        status, now = await self._datapath.status(), time.monotonic()
        self._minute.add(status.counters, now)
        problems = judge(self._minute.gained(status.counters, now), status.causes)
        paths = {str(peer): mtu for peer, mtu in status.path_mtus.items()}
        return {
            "running": status.running,
            "detail": status.detail,
            "counters": dict(status.counters),
            "path_mtus": paths,
            "slow_path": slow_path_share(status.counters, status.causes),
            "notes": status.notes,
            "problems": [str(problem) for problem in (*status.problems, *problems)],
            "problem_details": [problem.parts for problem in (*status.problems, *problems)],
        }

    async def repair(self, _: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(self._datapath, KernelDatapath):
            return {}
        state = await self._datapath.repair()
        return {"problem": state.problem.plain if state.problem else None, "mended": state.mended}


async def main(kind: str, path: Path) -> None:
    offloads = OFFLOADS.get(kind, Offloads.ALL)
    slow = UserspaceDatapath(workers=4 if kind == "userspace-4" else 1, offloads=offloads)
    fou = Wish(kind == "kernel-fou", "not asked for")
    datapath: Datapath = slow if kind.startswith("userspace") else KernelDatapath(slow, path=path, fou=fou)
    agent = Agent(datapath)
    lines = asyncio.StreamReader(limit=1 << 24)  # thousands of peers make a long line
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        try:
            answer = await getattr(agent, command["do"])(command)
        except OverlayError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    await datapath.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else OBJECT))
