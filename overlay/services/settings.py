"""What the services daemon was started with: the command line as facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overlay.services.dns.service import DnsSettings
from overlay.services.pods.registration import DEFAULT_TTL
from overlay.services.proxy.modes import AUTO
from overlay.store.etcd.settings import EtcdSettings


@dataclass(frozen=True, slots=True)
class ServicesSettings:
    """One field a flag of ``overlay services``; its help says what each means. Times are in seconds.

    Attributes:
        leases: what the keys of the network's leases begin with.
        dns: None where no names are answered.
        skydns: what the keys of the SkyDNS records begin with; None where they are not published.
        pod_names: whether those have names of pods.
    """

    etcd: EtcdSettings
    prefix: str
    leases: str
    node_name: str
    node_id: str
    subnet_file: Path
    state_dir: Path
    docker_socket: Path
    pods_dir: Path
    lease_ttl: int = DEFAULT_TTL
    proxy_mode: str = AUTO
    scheduler: str = ""
    cgroup: Path | None = None
    health_address: tuple[str, int] | None = None
    dns: DnsSettings | None = None
    skydns: str | None = None
    pod_names: bool = True
