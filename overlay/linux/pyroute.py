"""The door to pyroute2: what this package uses of it, without the rest.

The top of pyroute2 imports every protocol it has (WireGuard, Wi-Fi, a database of links, 9P), of which nothing is used
here: it made the agent 5 MB larger and its start slower. So its submodules are imported beneath an empty package, which
then makes room again: whoever imports pyroute2 after us gets the whole of it, with the same classes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "pyroute2"


@contextmanager
def _without_its_top() -> Iterator[None]:
    """Meanwhile, ``pyroute2`` is a package that has its submodules and nothing else."""
    spec = importlib.util.find_spec(_NAME) if _NAME not in sys.modules else None
    if spec is None:  # somebody has the whole already; or it is missing, which the import says best
        yield
        return
    sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[_NAME]


with _without_its_top():
    from pyroute2.ethtool.ethtool import Ethtool
    from pyroute2.ethtool.ioctl import EthtoolError
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.ipvs import IPVS, IPVSDest, IPVSService
    from pyroute2.netlink import rtnl
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

__all__ = [
    "IPVS",
    "Ethtool",
    "EthtoolError",
    "IPRoute",
    "IPVSDest",
    "IPVSService",
    "NFCTAttrTuple",
    "NFCTSocket",
    "NetlinkError",
    "rtnl",
]
