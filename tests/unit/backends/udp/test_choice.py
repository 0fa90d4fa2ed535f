"""Whether the kernel path may use FOU, as far as no kernel is asked."""

from __future__ import annotations

from overlay.backends.base import Flags
from overlay.backends.udp.choice import may_use_fou
from overlay.datapath.kernel.fou import Wish


async def test_a_flag_forbids_it() -> None:
    assert await may_use_fou(Flags(fou=False)) == Wish(False, "forbidden by --fou=false")
