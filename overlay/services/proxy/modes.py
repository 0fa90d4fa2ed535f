"""Which proxy modes there are, and which one a node takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overlay.services.proxy.base import Mode, Surroundings
from overlay.services.proxy.ebpf.mode import EbpfMode
from overlay.services.proxy.iptables.mode import IptablesMode
from overlay.services.proxy.ipvs.mode import IpvsMode
from overlay.services.proxy.ipvs.wanted import is_carried
from overlay.services.proxy.nftables import Nftables
from overlay.services.proxy.userspace.mode import UserspaceMode

AUTO, NONE = "auto", "none"

MODES: Mapping[str, Callable[[Surroundings], Mode]] = {
    EbpfMode.name: lambda surroundings: EbpfMode(Nftables(surroundings), surroundings.cgroup),
    Nftables.name: Nftables,
    IptablesMode.name: IptablesMode,
    IpvsMode.name: lambda surroundings: IpvsMode(Nftables(surroundings, is_carried), surroundings.scheduler),
    UserspaceMode.name: lambda surroundings: UserspaceMode(Nftables(surroundings)),
}
"""Every mode by its name. One that is new gets its line here, and in :data:`PREFERRED` if ``auto`` may take it."""

PREFERRED = ("ebpf", "nftables", "iptables")
"""What ``auto`` tries, the best first; those of them that there are."""

CHOICES = (AUTO, *MODES, NONE)
"""What ``--proxy-mode`` may be."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which mode was taken; None: none can be, or none is wanted.

    Attributes:
        declined: each mode that was asked before it, and why this machine cannot have it.
    """

    mode: Mode | None
    declined: tuple[tuple[str, str], ...] = ()

    @property
    def why_not(self) -> str:
        """One sentence of all that was declined."""
        return "; ".join(f"{name}: {why}" for name, why in self.declined)


async def choose(
    wish: str, surroundings: Surroundings, modes: Mapping[str, Callable[[Surroundings], Mode]] = MODES
) -> Choice:
    """Takes the mode that is wished, or for ``auto`` the best that this machine can have.

    Args:
        wish: one of :data:`CHOICES`.
    """
    if wish == NONE:
        return Choice(None)
    declined: list[tuple[str, str]] = []
    for name in [each for each in PREFERRED if each in modes] if wish == AUTO else [wish]:
        mode = modes[name](surroundings)
        if not (why := await mode.probe()):
            return Choice(mode, tuple(declined))
        await mode.close()
        declined.append((name, why))
    return Choice(None, tuple(declined))
