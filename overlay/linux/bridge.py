"""Ports of Linux bridges: whether one gives a frame back by where it came in (``hairpin``, IFLA_BRPORT_MODE)."""

from __future__ import annotations

from dataclasses import dataclass

from overlay.linux.netlink import RouteSocket, as_text, explained


@dataclass(frozen=True, slots=True)
class Port:
    """An interface that is part of a bridge. ``bridge``: that one's index."""

    index: int
    name: str
    bridge: int
    hairpin: bool


class BridgePorts(RouteSocket):
    """The ports of this namespace's bridges."""

    def ports(self) -> list[Port]:
        """All of them. Raises NodeError."""
        with explained("bridge ports"):
            found = []
            for message in self._route.get_links():
                info = message.get_attr("IFLA_LINKINFO")
                if info is None or info.get_attr("IFLA_INFO_SLAVE_KIND") != "bridge":
                    continue
                data = info.get_attr("IFLA_INFO_SLAVE_DATA")
                hairpin = bool(data is not None and data.get_attr("IFLA_BRPORT_MODE"))
                name = as_text(message.get_attr("IFLA_IFNAME"))
                found.append(Port(message["index"], name, message.get_attr("IFLA_MASTER"), hairpin))
        return found

    def set_hairpin(self, port: Port, on: bool) -> None:
        """Whether it may give frames back. Raises NodeError."""
        with explained(f"bridge port {port.name}"):
            self._route.brport("set", index=port.index, IFLA_BRPORT_MODE=int(on))
