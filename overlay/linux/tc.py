"""Traffic control by netlink: eBPF filters on an interface, and the veth pair that packets pass for GRO.

Beside :mod:`overlay.linux.netlink` the package's other user of pyroute2, synchronous like it: asynchronous code calls
it through ``asyncio.to_thread``. Other people's qdiscs and filters on an interface are left alone, and in their order.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatch
from ipaddress import IPv4Address
from typing import Any

from overlay.errors import DeviceError, NodeError
from overlay.linux.netlink import Link, RouteSocket, as_text, explained
from overlay.linux.pyroute import Ethtool, EthtoolError, NetlinkError

FIRST_PRIORITY = 8285
"""Where a filter of ours goes: behind those of the lower numbers that other tools tend to use."""

_ETH_P_IP = 0x0800
_RTM_F_FIB_MATCH = 0x2000
_RTN_UNICAST = 1
_MAX_MTU = 65535
_JOINING = frozenset({"rx-udp-gro-forwarding", "rx-gro-list"})
"""Features by which the kernel joins datagrams that no socket asked to have joined (``udp_gro_receive``)."""


class Hook(Enum):
    """Where on an interface a filter runs; the value is netlink's parent (``TC_H_CLSACT`` with a minor number)."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Filter:
    """An attached eBPF filter; ``name`` is free text given when it was attached."""

    priority: int
    handle: int
    name: str


@dataclass(frozen=True, slots=True)
class VethPair:
    """Both ends, and whether anything about them had to be changed."""

    sender: Link
    receiver: Link
    changed: bool


class TrafficControl(RouteSocket):
    """Filters, qdiscs and the veth pair of this namespace."""

    def joins_datagrams(self, device: Link) -> bool:
        """Whether the interface puts datagrams of one flow together before filters see them."""
        ethtool: Any = Ethtool()
        try:
            features = ethtool.get_features(device.name).features
            return any(feature.enable for name, feature in features.items() if name in _JOINING)
        except (OSError, EthtoolError, IndexError):  # IndexError: a name that is longer as text than the kernel's
            return False  # it says nothing of its offloads, so has none
        finally:
            ethtool.close()

    def towards(self, address: IPv4Address) -> set[int]:
        """Indexes of the interfaces by which the route to ``address`` leaves; several if it has several next hops."""
        with explained(f"route to {address}"):
            try:
                message = next(iter(self._route.route("get", dst=str(address), flags=_RTM_F_FIB_MATCH)))
            except NetlinkError as error:
                if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                    return set()  # unreachable, prohibited, blackhole
                raise
        if message["type"] != _RTN_UNICAST:
            return set()
        hops = message.get_attr("RTA_MULTIPATH") or ()
        return {hop["oif"] for hop in hops} or {message.get_attr("RTA_OIF")}

    def filters(self, device: Link, hook: Hook) -> list[Filter]:
        """The eBPF filters on a hook in the order in which they run; none where there is no clsact qdisc."""
        found = []
        with explained(f"filters of {device.name}"):
            for message in self._route.get_filters(index=device.index, parent=hook.value):
                options = message.get_attr("TCA_OPTIONS")
                if message.get_attr("TCA_KIND") == "bpf" and options is not None:
                    name = as_text(options.get_attr("TCA_BPF_NAME") or "")
                    found.append(Filter(message["info"] >> 16, message["handle"], name))
        return found

    def priorities(self, device: Link, hook: Hook) -> set[int]:
        """Those at which there are filters, of any kind: the kernel takes filters of one kind and protocol for each."""
        with explained(f"filters of {device.name}"):
            return {message["info"] >> 16 for message in self._route.get_filters(index=device.index, parent=hook.value)}

    def filters_before(self, device: Link, hook: Hook, priority: int) -> list[str]:
        """Filters of any kind that run before those of ``priority``: kind, name and priority in words."""
        found: dict[int, str] = {}
        with explained(f"filters of {device.name}"):
            for message in self._route.get_filters(index=device.index, parent=hook.value):
                number, kind = message["info"] >> 16, message.get_attr("TCA_KIND")
                options = message.get_attr("TCA_OPTIONS")
                name = as_text(options.get_attr("TCA_BPF_NAME") or "") if kind == "bpf" and options is not None else ""
                if number < priority:
                    found[number] = f"{kind} filter{f' {name}' if name else ''} (priority {number})"
        return list(found.values())

    def set_filter(self, device: Link, hook: Hook, wanted: Filter, program_fd: int) -> None:
        """Attaches a program, or puts it in the place of the one with the same priority and handle, in one step.

        Raises:
            PrivilegeError, NodeError: not attached; what was there before still is.
        """
        with explained(f"{hook.name.lower()} filter on {device.name}"):
            if not self.has_hook(device, hook):
                self._route.tc("add", "clsact", device.index)
            self._route.tc(
                "replace-filter",
                "bpf",
                device.index,
                wanted.handle,
                parent=hook.value,
                prio=wanted.priority,
                protocol=_ETH_P_IP,
                fd=program_fd,
                name=wanted.name,
                direct_action=True,
            )

    def delete_filter(self, device: Link, hook: Hook, filter_: Filter, *, with_qdisc: bool) -> None:
        """Detaches one filter.

        Args:
            with_qdisc: whether the clsact qdisc goes too, when that was the last filter on either hook.
        """
        with explained(f"{hook.name.lower()} filter on {device.name}"):
            self._route.tc(
                "del-filter",
                "bpf",
                device.index,
                filter_.handle,
                parent=hook.value,
                prio=filter_.priority,
                protocol=_ETH_P_IP,
            )
            hooks = [list(self._route.get_filters(index=device.index, parent=each.value)) for each in Hook]
            if with_qdisc and not any(hooks) and "clsact" in self._qdiscs(device):
                self._route.tc("del", "clsact", device.index)

    def ensure_gro_pair(self, sender: str, receiver: str, queues: int) -> VethPair:
        """A veth pair that merges TCP segments one way, and finishes packets the other way.

        veth hands packets to NAPI, where GRO is, only when the sending end could not send big ones itself: so its TSO
        is off (drivers/net/veth.c, ``veth_skb_is_eligible_for_gro``). The receiving end has no offloads when it sends,
        so that the kernel fills in checksums and cuts segments before. Both are without addresses, IPv6 included.

        Raises:
            DeviceError: one of the names belongs to another interface, or the kernel has no veth.
        """
        with explained(f"veth pair {sender}, {receiver}"):
            ends = self.link(sender), self.link(receiver)
            if any(end is not None and end.kind != "veth" for end in ends):
                raise DeviceError("exists and is no veth", about=f"{sender} or {receiver}", remedy="rename it")
            changed = None in ends
            if changed:
                for end in filter(None, ends):
                    self._route.link("del", index=end.index)
                shape = {"num_tx_queues": queues, "num_rx_queues": queues, "mtu": _MAX_MTU}
                self._route.link("add", ifname=sender, kind="veth", peer={"ifname": receiver, **shape}, **shape)
                ends = self.link(sender), self.link(receiver)
            first, second = ends
            if first is None or second is None:
                raise DeviceError("was removed while it was set up", about=f"{sender}, {receiver}", remedy="try again")
            for end in (first, second):
                if end.mtu != _MAX_MTU or end.master:  # as one who sets up all of a machine's interfaces may have it
                    self._route.link("set", index=end.index, mtu=_MAX_MTU, master=0)
                    changed = True
                if not end.up:
                    self.silence_ipv6(end.index)
                    self._route.link("set", index=end.index, state="up")
                    changed = True
        changed |= _set_features(sender, {"tx-tcp*-segmentation": False})
        changed |= _set_features(receiver, {"tx-checksum-ip-generic": False, "tx-*segmentation": False, "rx-gro": True})
        return VethPair(first, second, changed)

    def _qdiscs(self, device: Link) -> list[str]:
        return [message.get_attr("TCA_KIND") for message in self._route.get_qdiscs(index=device.index)]

    def has_hook(self, device: Link, hook: Hook) -> bool:
        """Whether there is a qdisc that filters can be attached to."""
        present = self._qdiscs(device)
        # The older "ingress" qdisc excludes clsact, and serves as well where only its own hook is needed.
        return "clsact" in present or ("ingress" in present and hook is Hook.INGRESS)


def _set_features(name: str, wanted: Mapping[str, bool]) -> bool:
    """``ethtool -K`` for all offloads whose kernel names fit the glob patterns; whether any had to be changed."""
    ethtool: Any = Ethtool()
    changed = False
    try:
        offloads = ethtool.get_features(name)
        for feature in offloads.features.values():
            for pattern, on in wanted.items():
                if feature.available and feature.enable != on and fnmatch(feature.name, pattern):
                    feature.enable, changed = on, True
        if changed:
            ethtool.set_features(name, offloads)
    except (OSError, EthtoolError) as error:
        raise NodeError(f"cannot set offloads: {error!r}", about=f"interface {name}") from error
    finally:
        ethtool.close()
    return changed
