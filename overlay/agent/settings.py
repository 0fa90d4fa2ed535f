"""What the agent was started with: the command line as facts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from overlay.backends.base import Flags
from overlay.node.interfaces import Selection
from overlay.store.etcd.settings import EtcdSettings


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One field a flag of ``overlay agent``; its help says what each means. Times are in seconds."""

    etcd: EtcdSettings
    prefix: str
    selection: Selection
    subnet_file: Path
    state_dir: Path
    data_dir: Path
    node_id: str
    backend: Flags
    public_ipv6: IPv6Address | None = None
    renew_margin: int = 3600
    lease_ttl: int = 86400
    ip_masq: bool = False
    forward_rules: bool = True
    random_fully: bool = True
    firewall_resync: int = 5
    blackhole_route: bool = False
    health_address: tuple[str, int] | None = None
    release_on_exit: bool = False
    on_subnet_change: str = ""
    watch_docker: bool = True
