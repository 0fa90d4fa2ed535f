"""The kernel datapath: eBPF programs carry packets, and another datapath behind them does what is unusual."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from overlay.daemon.occasions import changes_of_this_machine
from overlay.daemon.reconcile import Look, Loop
from overlay.daemon.threads import in_thread
from overlay.daemon.troubles import Troubles
from overlay.datapath.base import Datapath, DatapathStatus, Meanwhile
from overlay.datapath.kernel import fou_watch
from overlay.datapath.kernel.attach import fou_device, gro_pair
from overlay.datapath.kernel.findings import (
    FIREWALL,
    FIREWALL_WITH_FOU,
    LOST_IN_FOU,
    UNSEEN_BY_US,
    causes_of,
    problems_of,
    slow_path_counters,
)
from overlay.datapath.kernel.fou import NOT_WANTED, Wish, forsake, socket_ports
from overlay.datapath.kernel.fou_watch import Verdict, Watch
from overlay.datapath.kernel.machine import Machine, cleanup
from overlay.datapath.kernel.maps import ToFou, read_counters
from overlay.datapath.kernel.programs import OBJECT, Loaded, load, pin_directory
from overlay.datapath.kernel.proof import Asker
from overlay.datapath.kernel.state import OBSTACLE, WAITING, State
from overlay.datapath.spec import TunnelSpec
from overlay.errors import DatapathError, OverlayError, PortInUseError
from overlay.linux import device_drops
from overlay.linux.changes import Group
from overlay.linux.device_drops import Dropped, Growth, lost_between
from overlay.linux.shortage import is_shortage
from overlay.model import PeerTable
from overlay.observe.logging import Once
from overlay.packet.mtu import UDP_ENCAPSULATION

NAME = "kernel"

_MATTERS = Group.LINKS | Group.TRAFFIC_CONTROL | Group.ROUTES
_BURST = 0.5
"""Seconds between two looks at least, unless there are new peers: changes come in bursts, and a look costs 20 ms."""
_TICK = 0.25
"""Seconds between two looks at what the programs count: what somebody said about paths, and whether FOU does what it is
there for. One for both, as waking up costs more than what is done then."""
_TICKS_TO_ASK = 2
"""From one round of questions to peers to the next: as long a flow takes the detour before the first answer."""
_LEARN_ANYWAY = 10.0
"""Seconds after which it is looked whether what was learnt still holds."""
_ATTENTION = 3.0
"""Seconds that the slow path may take to make sure of what somebody said."""
_LOOK_ANYWAY, _LOOK_AGAIN = 30.0, 1.0
"""Seconds between two looks at most, and while there is a problem."""

CLAIMS = "icmp_too_big"
_SHARES = {
    Verdict.ALL_TCP: (ToFou.ALL_IN_IP, "nothing joins TCP's segments here but FOU, which gets all of them"),
    Verdict.JOINED: (ToFou.JOINED, "what the GRO stage has joined would be cut again; FOU gets it, which mends that"),
    Verdict.TRAINS: (ToFou.TRAINS, "the underlay joins TCP's segments by now; FOU gets what it has joined"),
}
"""What FOU gets by what the counters say, and why."""
_IN_IP = (ToFou.JOINED, ToFou.ALL_IN_IP)
"""Of which some comes to its device as IP in IP."""
_CLAIMS, _ATTENDED = (CLAIMS,), (CLAIMS, *fou_watch.NAMES)
"""Counters that are read at each tick, without FOU and with it."""

log = logging.getLogger(__name__)


class _Attention:
    """When it is worth asking the slow path about paths: for a while after claims came, and now and then."""

    def __init__(self) -> None:
        self._claims, self._until, self._looked = 0, 0.0, 0.0

    def is_due(self, claims: int, now: float) -> bool:
        """Whether to look now, after so many claims in all; if so, that is done."""
        if claims != self._claims:
            self._claims, self._until = claims, now + _ATTENTION
        if now >= self._until and now - self._looked < _LEARN_ANYWAY:
            return False
        self._looked = now
        return True


class SlowPath(Datapath, Protocol):
    """What handles the packets that the programs leave alone."""

    async def configure(self, spec: TunnelSpec, *, meanwhile: Meanwhile | None = None) -> None:
        """As :meth:`Datapath.configure`; once device and port are open, ``meanwhile`` is done beside the rest."""


class KernelDatapath:
    """Programs on the TUN device's egress and the underlay's ingress, in front of a slow path.

    Implements :class:`overlay.datapath.base.Datapath`. The slow path owns the TUN device and the socket; it must not
    have the socket's datagrams joined (UDP_GRO), for the kernel joins them before our programs see them. Programs and
    maps outlive this object and its process: traffic goes on, and the next agent takes over without losing a packet.

    Args:
        slow: the slow path.
        path: the compiled programs.
        pinned: whether maps are pinned in bpffs, for the next agent.
        fou: whether trains may be left to the kernel's FOU.
    """

    def __init__(self, slow: SlowPath, *, path: Path = OBJECT, pinned: bool = True, fou: Wish = NOT_WANTED) -> None:
        self._slow = slow
        self._path = path
        self._pinned = pinned
        self._without_fou = "" if fou.wanted else fou.reason
        self._ahead: tuple[str, Loaded] | None = None
        self._watch_fou = Watch()
        self._takes_no_ip_in_ip = False  # this machine's firewall, as seen
        self._machine: Machine | None = None
        self._table: PeerTable | None = None
        self._state = State()
        self._stood = False  # all was once as it must be, so that what is amiss was broken by others
        self._repairs = 0
        self._before: Mapping[str, int] = {}
        self._growth = Growth()
        self._turn = asyncio.Lock()
        self._loop = Loop(OBSTACLE, self._look, Troubles(), every=_LOOK_ANYWAY, retry=_LOOK_AGAIN)
        self._follower: asyncio.Task[None] | None = None
        self._asker: Asker | None = None
        self._cannot_ask = False
        self._attention = _Attention()
        self._once = Once(log)

    async def load(self, device: str) -> None:
        """Loads the programs for ``device``, which takes a while, before there is anything to configure.

        Raises:
            PrivilegeError, DatapathError: from loading.
        """
        async with self._turn:
            if self._machine is None and self._ahead is None:
                self._ahead = device, await in_thread(self._load, device)

    async def configure(self, spec: TunnelSpec) -> None:
        """Loads the programs, opens the slow path's device and port, and attaches; or changes over to ``spec``.

        On a machine without a predecessor's peers, programs are attached with the first peer table, not before. They
        do not wait for the slow path's worker: it takes the longest to start, and most packets are not for it.

        Raises:
            PrivilegeError, DeviceError, PortInUseError, DatapathError: from loading, or from the slow path.
        """
        async with self._turn:
            former = self._machine
            if former is not None and former.spec == replace(spec, socket_port=former.spec.socket_port):
                return  # what others break is mended by the loop
            same_device = former is not None and former.spec.device == spec.device
            loaded = former.loaded if former and same_device else await self._loaded(spec.device)
            try:
                # A predecessor's counters, whose slow path is gone with it.
                before = self._before if former and same_device else await in_thread(read_counters, loaded.counters)
                if self._without_fou:
                    await in_thread(forsake, loaded.endpoint, spec.device)  # a predecessor's has the port
                spec = await self._configure_slow(spec, former.spec if former is not None else None, loaded)
            except BaseException:
                if not same_device:
                    loaded.close()
                raise
            if former is not None and not same_device:
                former.loaded.close()
                await in_thread(cleanup, former.spec.device)
            self._forget_asker()
            self._machine = Machine(spec, loaded, without_fou=self._without_fou)
            self._before = before
            if former is None or not same_device:
                self._device_drops()
            self._stood = False
        await self._loop.once()
        if self._follower is None:
            self._follower = asyncio.create_task(self._work())

    def set_peers(self, table: PeerTable) -> None:
        """Hands ``table`` to the slow path at once, and to the kernel's map in a thread."""
        self._table = table
        self._slow.set_peers(table)
        self._loop.occasion.tell()

    async def repair(self) -> State:
        """Compares this machine with what it must be, mends what differs, and tells what it found."""
        await self._loop.once()
        return self._state

    async def _configure_slow(self, spec: TunnelSpec, former: TunnelSpec | None, loaded: Loaded) -> TunnelSpec:
        """Configures the slow path, with a port of its own where FOU is to have the tunnel's; says with which.

        Raises:
            PrivilegeError, DeviceError, PortInUseError, DatapathError: nothing was changed then.
        """
        if self._without_fou:
            await self._slow.configure(spec, meanwhile=self._attaching(spec, former, loaded))
            return spec
        candidates = list(socket_ports(spec.port))
        if former is not None and former.port == spec.port and former.socket_port is not None:
            candidates.insert(0, former.socket_port)
        for candidate in candidates:
            wanted = replace(spec, socket_port=candidate)
            try:
                await self._slow.configure(wanted, meanwhile=self._attaching(wanted, former, loaded))
            except PortInUseError as error:
                refused = error
            else:
                return wanted
        raise refused

    def _attaching(self, spec: TunnelSpec, former: TunnelSpec | None, loaded: Loaded) -> Meanwhile | None:
        """What has the programs carry packets while the slow path changes over to ``spec``; None if it need not."""
        return partial(self._attach, spec, loaded) if spec != former else None

    async def _attach(self, spec: TunnelSpec, loaded: Loaded) -> None:
        """Has the programs carry packets; what is amiss, the first look tells."""
        state = await in_thread(Machine(spec, loaded, without_fou=self._without_fou).reconcile, self._table)
        for text in state.mended:
            log.info("kernel datapath: %s", text)

    async def status(self) -> DatapathStatus:
        """The slow path's snapshot with the kernel's counters added to those of the same names."""
        slow = await self._slow.status()
        state, fast = self._state, self._counters()  # after the slow path's: what that has seen is in them
        counters = dict(slow.counters)
        for name, value in fast.items():
            counters[name] = counters.get(name, 0) + value
        counters |= slow_path_counters(slow.counters, {name: fast[name] - self._before.get(name, 0) for name in fast})
        counters |= await asyncio.to_thread(self._device_drops)
        counters["repairs"] = self._repairs
        asked = f", {self._asker.describe()}" if self._asker is not None else ""
        return DatapathStatus(
            NAME,
            slow.running and self._machine is not None,
            f"{state.problem.plain if state.problem else state.detail}{asked}; slow path: {slow.detail}",
            MappingProxyType(counters),
            slow.path_mtus,
            notes=(*slow.notes, FIREWALL if self._without_fou else FIREWALL_WITH_FOU),
            problems=(*slow.problems, *problems_of(state)),
            causes=MappingProxyType({**slow.causes, **causes_of(state.surroundings)}),
        )

    async def watch(self) -> None:
        """Never returns; what others break on this machine is mended by itself.

        Raises:
            DatapathError: the slow path has failed for good, or this one has not been configured.
        """
        follower = self._follower
        if follower is None:
            raise DatapathError("not configured", about="kernel datapath")
        slow = asyncio.ensure_future(self._slow.watch())
        try:
            await asyncio.wait((slow, follower), return_when=asyncio.FIRST_COMPLETED)
        finally:
            slow.cancel()
        for each in (slow, follower):
            if each.done() and not each.cancelled() and (error := each.exception()) is not None:
                if isinstance(error, OverlayError):
                    raise error
                raise DatapathError(f"has a bug: {error!r}", about="kernel datapath") from error
        raise DatapathError("ended", about="kernel datapath")

    async def close(self) -> None:
        """Ends the slow path and stops mending; programs and maps stay, and go on carrying packets."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
            self._follower = None
        async with self._turn:
            if self._machine is not None:
                await in_thread(self._leave_fou, self._machine)
            await self._slow.close()
            self._forget_asker()
            if self._machine is not None:
                self._machine.loaded.close()
                self._machine = None
            if self._ahead is not None:
                self._ahead[1].close()
                self._ahead = None

    def _leave_fou(self, machine: Machine) -> None:
        """An agent of an earlier version, if that comes next, must find the port free."""
        try:
            forsake(machine.loaded.endpoint, machine.spec.device)
        except OverlayError as error:
            log.warning("the kernel's FOU could not be taken away: %s", error)

    async def _loaded(self, device: str) -> Loaded:
        """The programs for ``device``, loaded ahead or now; the caller's to close."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == device:
            return ahead[1]
        if ahead is not None:
            ahead[1].close()
        return await in_thread(self._load, device)

    def _load(self, device: str) -> Loaded:
        return load(self._path, pin_directory(device) if self._pinned else None)

    def _counters(self) -> Mapping[str, int]:
        return read_counters(self._machine.loaded.counters) if self._machine is not None else {}

    def _device_drops(self) -> dict[str, int]:
        if self._machine is None:
            return {}
        try:
            found = device_drops.dropped()
        except OSError:  # no descriptor to read them by
            return self._growth.totals
        device = self._machine.spec.device
        self._growth.add("drop_gro_pair", lost_between(*map(found.get, gro_pair(device))))
        behind = found.get(fou_device(device), Dropped(0, 0))
        self._growth.add("drop_fou_device", behind.rx + behind.tx)
        return self._growth.totals

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(changes_of_this_machine(self._loop.occasion, of=_MATTERS, burst=_BURST))
            tasks.create_task(self._loop.run())
            tasks.create_task(self._attend())

    async def _attend(self) -> None:
        """What is done some times a second, in one turn."""
        for tick in count():
            await asyncio.sleep(_TICK)
            async with self._turn:
                if (machine := self._machine) is None:
                    continue
                counters = read_counters(machine.loaded.counters, _CLAIMS if self._without_fou else _ATTENDED)
                if tick % _TICKS_TO_ASK == 0:
                    self._ask(machine)
                await self._learn_paths(machine, counters)
                changed = not self._without_fou and self._follow_fou(machine, counters)
            if changed:
                await self._loop.once()

    async def _learn_paths(self, machine: Machine, counters: Mapping[str, int]) -> None:
        """Tells the programs what the slow path has made sure of: soon after claims came, and anyway."""
        if not self._attention.is_due(counters[CLAIMS], time.monotonic()):
            return
        limits = (await self._slow.status()).path_mtus
        path_mtus = {peer: limit + UDP_ENCAPSULATION for peer, limit in limits.items()}
        try:
            await in_thread(machine.loaded.peers.limit, path_mtus)
        except OverlayError as error:
            log.warning("the programs could not be told the paths' MTUs: %s", error)

    def _follow_fou(self, machine: Machine, counters: Mapping[str, int]) -> bool:
        """Takes FOU away where what is left to it gets lost, gives it more where that is of use; whether either."""
        verdict = self._watch_fou.judge(counters, time.monotonic())
        share, why = _SHARES.get(verdict, (machine.to_fou, ""))
        if self._takes_no_ip_in_ip and share in _IN_IP:
            share = ToFou.ALL_TCP
        if verdict is Verdict.UNSEEN:
            machine.without_fou = UNSEEN_BY_US
            log.warning("kernel datapath: FOU is taken away: %s", UNSEEN_BY_US)
        elif verdict is Verdict.TAKE_BACK and machine.to_fou in _IN_IP:
            # There may be a rule for that, and another for the tunnel's port.
            self._watch_fou, self._takes_no_ip_in_ip = Watch(), True
            machine.to_fou = ToFou.ALL_TCP
            log.warning("kernel datapath: what is left to FOU's device as IP in IP is lost: its socket gets all TCP")
        elif verdict is Verdict.TAKE_BACK:
            machine.without_fou = LOST_IN_FOU
            log.warning("kernel datapath: FOU is taken away: %s", LOST_IN_FOU)
        elif machine.to_fou is not share:
            machine.to_fou = share
            log.info("kernel datapath: %s", why)
        else:
            return False
        return True

    def _ask(self, machine: Machine) -> None:
        """Has the peers proven to which something is sent."""
        if self._table is None or self._cannot_ask:
            return
        if self._asker is None:
            if (endpoint := machine.endpoint) is None:
                return
            try:
                self._asker = Asker(machine.spec.device, endpoint, machine.loaded.peers)
            except OSError as error:
                self._once.say("ask", f"peers cannot be asked, so all is finished for them: {error.strerror}")
                self._cannot_ask = not is_shortage(error)
                return
        self._asker.ask(self._table, time.monotonic())

    def _forget_asker(self) -> None:
        if self._asker is not None:
            self._asker.close()
            self._asker = None

    async def _look(self) -> Look:
        """Makes this machine as it must be; what is amiss all the same is looked at again soon."""
        async with self._turn:
            if self._machine is None:
                return Look()
            state = await in_thread(self._machine.reconcile, self._table)
            if self._machine.without_fou and self._machine.spec.socket_port is not None:
                state = await self._without_fou_now(self._machine, state)
            return self._take_in(state)

    async def _without_fou_now(self, machine: Machine, state: State) -> State:
        """FOU has been taken away, for as long as this agent runs: the slow path has the tunnel's port again."""
        self._without_fou = machine.without_fou
        plain = replace(machine.spec, socket_port=None)
        try:
            await self._slow.configure(plain)
        except OverlayError as error:  # the next look tries again
            log.warning("kernel datapath: the slow path cannot have the tunnel's port back: %s", error)
            return state
        machine.spec = plain
        again = await in_thread(machine.reconcile, self._table)
        return replace(again, mended=state.mended + again.mended)

    def _take_in(self, state: State) -> Look:
        """Remembers what a look found, and says what is new about it."""
        before, self._state = self._state, state
        self._repairs += len(state.mended) if self._stood else 0
        self._stood = self._stood or state.problem is None
        for text in state.mended:
            log.info("kernel datapath: %s", text)
        if state.problem != before.problem and state.problem in (None, WAITING):
            log.info("kernel datapath: %s", state.detail if state.problem is None else state.problem.plain)
        if state.problem is None:
            return Look()
        return Look(() if state.problem == WAITING else (state.problem,), due=_LOOK_AGAIN)
