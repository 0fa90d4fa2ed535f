"""This machine's state for one tunnel: what must be attached where, compared with what is, and mended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from overlay.datapath.kernel import attach
from overlay.datapath.kernel import fou as fou_stage
from overlay.datapath.kernel.attach import Attachment
from overlay.datapath.kernel.maps import Endpoint, ToFou, read_endpoint, write_endpoint
from overlay.datapath.kernel.programs import Known, Loaded, pin_directory, recall, unpin, unpin_dead
from overlay.datapath.kernel.proof import say_farewell, ticks_per_second
from overlay.datapath.kernel.state import OBSTACLE, WAITING, State
from overlay.datapath.kernel.underlays import Surroundings, is_end, underlays
from overlay.datapath.spec import TunnelSpec
from overlay.errors import DeviceError, OverlayError
from overlay.linux import ipsec
from overlay.linux.libbpf import Map
from overlay.linux.netlink import Link
from overlay.linux.shortage import is_shortage
from overlay.linux.tc import Hook, TrafficControl, VethPair
from overlay.model import Peer, PeerTable
from overlay.problem import Problem

_SAMPLE = 8
"""Peers whose routes are looked up; thousands of them leave by the same few interfaces."""
_MAX_QUEUES = 16
"""Of the veth pair, so that as many CPUs can merge segments at a time."""
_WHAT = {
    ToFou.TRAINS: "joined trains of TCP are",
    ToFou.JOINED: "trains of TCP, also those that the GRO stage has joined, are",
    ToFou.ALL_TCP: "all TCP is",
    ToFou.ALL_IN_IP: "all TCP, as IP in IP, is",
}


class _NoPeersYetError(Exception):
    """Programs are attached with a peer table, never before it; whoever adopted one has it."""


class Machine:
    """Keeps devices, filters and maps as ``spec`` wants them. Methods block, and are for one thread at a time.

    Attributes:
        spec: may be changed for one whose slow path has another port.
        without_fou: why there is no FOU stage; empty where there is one, or is to be.
        to_fou: what it has while it is there.
    """

    def __init__(self, spec: TunnelSpec, loaded: Loaded, *, without_fou: str) -> None:
        self.spec, self.loaded, self.without_fou = spec, loaded, without_fou
        self._table: PeerTable | None = None
        self._swept = False
        self._attached: dict[int, Link] = {}
        # A predecessor's is kept, lest every flow gets another port.
        former = read_endpoint(loaded.endpoint)
        self.secret = former.secret if former is not None and former.secret else int.from_bytes(os.urandom(8), "big")
        self.to_fou = former.to_fou if former is not None and former.to_fou else ToFou.TRAINS
        self._fou_may_be = True  # a predecessor's
        self._former_port = former.port if former is not None and former.to_fou else None

    @property
    def endpoint(self) -> Endpoint | None:
        """What the programs were told last; None before."""
        return read_endpoint(self.loaded.endpoint)

    def reconcile(self, table: PeerTable | None) -> State:
        """Brings everything to the desired state; applied twice, the second time does nothing.

        Args:
            table: the peers; None while they are not known.
        """
        mended: list[str] = []
        try:
            with TrafficControl() as tc:
                detail, surroundings = self._reconcile(tc, table, mended)
            return State(detail, self._obstacle(), tuple(mended), surroundings, self._unprotected())
        except _NoPeersYetError:
            return State(problem=WAITING, mended=tuple(mended))
        except OverlayError as error:
            return State(problem=Problem.of(error, OBSTACLE, about=""), mended=tuple(mended))
        except OSError as error:
            return State(problem=Problem(OBSTACLE, str(error)), mended=tuple(mended))

    def _reconcile(self, tc: TrafficControl, table: PeerTable | None, mended: list[str]) -> tuple[str, Surroundings]:
        spec, loaded = self.spec, self.loaded
        tun, underlay = self._device(tc, spec.device), self._device(tc, spec.underlay_interface)
        stage, without_stage = self._stage(tc, mended)
        if table is not None and table is not self._table:
            loaded.peers.replace(table)
            self._table = table
        elif table is None and not loaded.adopted:
            raise _NoPeersYetError
        fou = self._fou_stage(tc, mended)
        devices = tc.links()
        ours = {tun.index, *((stage.sender.index, stage.receiver.index) if stage is not None else ())}
        ours |= {fou.index} if fou is not None else set()
        outer = (underlay, *self._other_underlays(tc, devices, ours | {underlay.index}))

        gro, finish = (stage.sender.index, stage.receiver.index) if stage is not None else (0, 0)
        endpoint = Endpoint(
            spec.underlay_address,
            spec.port,
            spec.subnet,
            tun.index,
            gro,
            finish,
            copy_dscp=spec.copy_dscp,
            second=ticks_per_second(),
            secret=self.secret,
            socket=spec.socket_port or 0,
            to_fou=self.to_fou if fou is not None else ToFou.NOTHING,
        )
        told = self.endpoint
        leaves_already = told is not None and told.to_fou
        if write_endpoint(loaded.endpoint, endpoint if leaves_already else replace(endpoint, to_fou=ToFou.NOTHING)):
            mended.append(f"told the programs {spec.underlay_address}:{spec.port}, {spec.subnet}")
        self._release_former_port(mended)
        attachments = tuple(self._attachments(tun, outer, stage, fou))
        for attachment in attachments:
            if attach.ensure(tc, spec.device, attachment):
                where = f"{attachment.hook.name.lower()} of {attachment.device.name}"
                mended.append(f"attached {attachment.program.name} to {where}")
        # Not before these programs are everywhere: what an earlier version's leave to FOU has no pass.
        if write_endpoint(loaded.endpoint, endpoint):
            mended.append("told the programs that there is FOU")
        wanted = {attachment.device.index: attachment.device for attachment in attachments}
        if self._table is not None:
            # Once all of them: an agent with another underlay may have left filters of ours on other interfaces.
            former = self._attached.values() if self._swept else devices
            self._detach((device for device in former if device.index not in wanted), tc, devices, mended)
            self._attached, self._swept = wanted, True
        if stage is not None:
            merging = f"GRO by {stage.receiver.name}, trains of UDP are cut by {stage.sender.name}"
        else:
            merging = f"no GRO stage ({without_stage}), trains of UDP take the slow path"
        names = ", ".join(device.name for device in outer)
        if fou is not None:
            joined = f"{_WHAT[self.to_fou]} unwrapped by FOU ({fou.name})"
        else:
            joined = f"no FOU ({self.without_fou})"
        detail = f"{len(loaded.peers)} subnets, {spec.device} and {names}, {merging}, {joined}"
        return detail, self._look_around(tc, devices, attachments, ours)

    def _look_around(
        self, tc: TrafficControl, devices: Iterable[Link], attachments: Iterable[Attachment], ours: set[int]
    ) -> Surroundings:
        outside = [each for each in attachments if each.device.index not in ours or each.hook is Hook.EGRESS]
        underlays = {each.device.index: each.device for each in outside if each.hook is Hook.INGRESS}
        containers = {each.index for each in tc.addresses() if each.address in self.spec.network}
        return Surroundings(
            ahead=tuple(
                f"{other} on {each.hook.name.lower()} of {each.device.name}"
                for each in outside
                for other in attach.ahead(tc, self.spec.device, each)
            ),
            joining=tuple(device.name for device in underlays.values() if tc.joins_datagrams(device)),
            bare=tuple(
                device.name
                for device in devices
                if device.up and is_end(device) and device.index not in {*underlays, *ours, *containers}
            ),
        )

    def _device(self, tc: TrafficControl, name: str) -> Link:
        device = tc.link(name)
        if device is None:
            raise DeviceError("there is no such interface", about=name)
        return device

    def _obstacle(self) -> Problem | None:
        """What keeps packets on the slow path although everything is in its place."""
        # bpf_fib_lookup routes as if packets had come in from the device, and refuses where that is not forwarding.
        setting = Path(f"/proc/sys/net/ipv4/conf/{self.spec.device}/forwarding")
        with suppress(OSError):
            if setting.read_text().strip() == "0":
                return Problem(
                    OBSTACLE, "IP forwarding is off, so packets leave by the slow path", "set net.ipv4.ip_forward=1"
                )
        return None

    def _unprotected(self) -> tuple[IPv4Address, ...]:
        """Peers' addresses that IPsec policies name: what the programs send passes them by."""
        if not (present := ipsec.policies()):
            return ()
        own, port = self.spec.underlay_address, self.spec.port
        addresses = sorted({peer.public_ip for peer in self._peers()})
        return tuple(at for at in addresses if any(policy.covers(own, at, port) for policy in present))

    def _stage(self, tc: TrafficControl, mended: list[str]) -> tuple[VethPair | None, str]:
        names = attach.gro_pair(self.spec.device)
        try:
            pair = tc.ensure_gro_pair(*names, queues=min(os.cpu_count() or 1, _MAX_QUEUES))
        except OverlayError as error:
            if is_shortage(error):
                raise  # what stands stays
            return None, str(error)  # a third slower, and right all the same
        if pair.changed:
            mended.append(f"set up {' and '.join(names)}")
        return pair, ""

    def _fou_stage(self, tc: TrafficControl, mended: list[str]) -> Link | None:
        if not self.without_fou:
            self._fou_may_be = True
            try:
                stage = fou_stage.Stage(self.spec.device, self.spec.underlay_address, self.spec.port)
                return fou_stage.set_up(stage, tc, self.loaded, mended)
            except (OverlayError, OSError) as error:
                if is_shortage(error):
                    raise
                self.without_fou = str(error)
        if self._fou_may_be:
            mended.extend(f"took away {each}" for each in fou_stage.forsake(self.loaded.endpoint, self.spec.device))
            self._fou_may_be = False
        return None

    def _release_former_port(self, mended: list[str]) -> None:
        """The one that the tunnel had before its config changed."""
        port, self._former_port = self._former_port, None
        if port is not None and port != self.spec.port and fou_stage.release(port):
            mended.append(f"took UDP port {port} from FOU")

    def _other_underlays(self, tc: TrafficControl, devices: Iterable[Link], known: set[int]) -> list[Link]:
        """Interfaces by which packets from peers may come as well, judged by addresses and the routes to some peers.

        One that is missed costs speed only: what comes in there reaches the socket, if need be once FOU is taken away.
        """
        addresses = sorted({peer.public_ip for peer in self._peers()})
        sample = addresses[:: max(1, len(addresses) // _SAMPLE)][:_SAMPLE]
        towards = set().union(*(tc.towards(address) for address in sample))
        others = [device for device in devices if device.index not in known]
        return underlays(others, tc.addresses(), towards, self.spec.network)

    def _peers(self) -> Iterable[Peer]:
        return self._table.peers.values() if self._table is not None else ()

    def _attachments(
        self, tun: Link, underlays: Iterable[Link], stage: VethPair | None, fou: Link | None
    ) -> Iterator[Attachment]:
        """In an order in which each finds the next stage in place."""
        loaded = self.loaded
        if fou is not None:
            yield Attachment(fou, Hook.INGRESS, loaded.fou)
        if stage is not None:
            yield Attachment(stage.receiver, Hook.INGRESS, loaded.gro)
            yield Attachment(stage.sender, Hook.INGRESS, loaded.finish)
        for underlay in underlays:
            yield Attachment(underlay, Hook.INGRESS, loaded.decap if underlay.ethernet else loaded.decap_l3)
        yield Attachment(tun, Hook.EGRESS, loaded.encap)

    def _detach(self, surplus: Iterable[Link], tc: TrafficControl, devices: Iterable[Link], mended: list[str]) -> None:
        """Takes filters of ours from interfaces where none belongs, as far as those still exist."""
        existing = {device.index for device in devices}
        for device in surplus:
            if device.index in existing and attach.detach(tc, self.spec.device, device):
                mended.append(f"detached what was left on {device.name}")


def is_in_use(device: str) -> bool:
    """Whether programs, an earlier agent's, carry the packets of the TUN device.

    Raises:
        NodeError, PrivilegeError: that cannot be found out.
    """
    with TrafficControl() as tc:
        tun = tc.link(device)
        return tun is not None and attach.is_attached(tc, device, tun)


def give_port_back(device: str) -> list[str]:
    """Takes the tunnel's port from the kernel's FOU, while the programs of ``device`` go on; tells what there was.

    Programs that cannot be told to go on without, for their maps are not pinned, are removed with all the rest.

    Raises:
        NodeError, PrivilegeError: something could not be removed.
    """
    try:
        endpoints = Map.pinned(pin_directory(device) / "endpoint")
    except OverlayError:
        with TrafficControl() as tc:
            has_stage = tc.link(attach.fou_device(device)) is not None
        return cleanup(device) if has_stage else []
    with closing(endpoints):
        return fou_stage.forsake(endpoints, device)


def cleanup(device: str) -> list[str]:
    """Removes all that the kernel path of ``device`` has on this machine; tells what there was. The TUN device stays.

    Raises:
        NodeError, PrivilegeError: something could not be removed.
    """
    removed: list[str] = []
    known = recall(pins := pin_directory(device))
    _take_leave(known)
    pair = attach.gro_pair(device)
    with TrafficControl() as tc:
        # The pair last: what others have sent into it still comes out where it should.
        for link in sorted(tc.links(), key=lambda link: link.name in pair):
            if link.name == attach.fou_device(device):
                continue  # no moment without the program on it: it goes as a whole
            if number := attach.detach(tc, device, link):
                removed.append(f"{number} eBPF filter{'s' * (number > 1)} on {link.name}")
        removed += fou_stage.remove(
            device, known.endpoint.port if known is not None and known.endpoint.to_fou else None
        )
        sender = tc.link(pair[0])
        if sender is not None and sender.kind == "veth":
            tc.delete_link(sender)
            removed.append(f"veth pair {' and '.join(pair)}")
    _take_leave(known)  # once more: a peer that asked meanwhile was still answered
    unpin_dead()
    if unpin(pins):
        removed.append(f"pinned maps in {pins}")
    return removed


def _take_leave(known: Known | None) -> None:
    if known is not None:
        say_farewell(known.endpoint, known.peers)
