"""The agent's report of itself as one JSON object; ``overlay status`` shows it."""

from __future__ import annotations

import os
from typing import Any

from overlay import __version__
from overlay.agent.settings import AgentSettings
from overlay.control.plane import ControlState
from overlay.control.schema import LeaseRecord, udp_port
from overlay.daemon.clock import boottime
from overlay.datapath.base import DatapathStatus
from overlay.datapath.causes import slow_path_share
from overlay.node.interfaces import Underlay


def describe(
    settings: AgentSettings,
    state: ControlState,
    underlay: Underlay,
    datapath: DatapathStatus,
    *,
    uptime: float,
    endpoint: str,
    ready: bool,
    taken_by: LeaseRecord | None,
    problems: tuple[str, ...],
    reason: str,
) -> dict[str, Any]:
    """Members are stable: scripts read them. Times in whole seconds; null means "not yet" or "never ends".

    Args:
        taken_by: another node's lease of what was ours, while there is none instead.
    """
    now = boottime()
    held = state.held
    return {
        "version": __version__,
        "pid": os.getpid(),
        "node_id": settings.node_id,
        "uptime_seconds": int(uptime),
        "ready": ready and datapath.running,
        "problems": list(problems),
        "phase": state.phase.name.lower(),
        "lease": None
        if held is None
        else {
            "subnet": str(held.subnet),
            "reserved": held.reserved,
            "valid_for_seconds": None if held.reserved else max(0, int(held.valid_until - now)),
        },
        "lost_lease": None
        if taken_by is None
        else {
            "subnet": str(taken_by.lease.subnet),
            "public_ip": str(taken_by.lease.public_ip),
            "node_id": taken_by.lease.node_id,
        },
        "underlay": {
            "interface": underlay.interface,
            "address": str(underlay.address),
            "public_ip": str(underlay.public_ip),
            "mtu": underlay.mtu,
        },
        "store": {
            "connected": state.store_connected,
            "endpoint": endpoint,
            "silent_for_seconds": None if state.last_contact is None else int(now - state.last_contact),
            "skipped_keys": state.skipped,
        },
        "datapath": {
            "name": datapath.name,
            "reason": reason,
            "running": datapath.running,
            "detail": datapath.detail,
            "counters": dict(datapath.counters),
            "slow_path": slow_path_share(datapath.counters, datapath.causes),
            "port": None if state.config is None else udp_port(state.config.backend),
            "notes": list(datapath.notes),
        },
        "peers": [
            {
                "subnet": str(peer.subnet),
                "public_ip": str(peer.public_ip),
                "node_id": peer.node_id,
                "path_mtu": datapath.path_mtus.get(peer.public_ip),
            }
            for peer in state.peers.peers.values()
        ],
    }
