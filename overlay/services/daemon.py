"""``overlay services``: follows etcd, and registers this node and its pods there.

Tasks, each of which runs as long as the daemon::

    mirror      follows all services' keys: what every node computes from
    leases      follows the network's leases: at which address this node is reached
    subnet      looks at subnet.env: which addresses are this node's pods'
    docker      follows Docker's containers
    directory   follows pods.d
    registrar   keeps this node, its pods and their etcd lease in etcd
    heartbeat   systemd's status and watchdog
    report, health  answer ``overlay services --status`` and probes

Everything that may fail while the world is incomplete (no etcd, no Docker, no subnet yet) is waited for, and told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from random import Random
from typing import Any

from overlay import __version__
from overlay.daemon import http, lock, status_socket
from overlay.daemon.http import Health
from overlay.daemon.sd_notify import Notifier
from overlay.errors import PortInUseError, first_of
from overlay.node.subnet_env import previous_subnet
from overlay.observe.logging import Once
from overlay.problem import Problem
from overlay.services.keys import Keys
from overlay.services.lease import LeaseFollower
from overlay.services.machine import this_machine
from overlay.services.mirror import ServicesFollower
from overlay.services.objects.document import metadata_of
from overlay.services.pods import mapping, node
from overlay.services.pods.directory import Directory, complete
from overlay.services.pods.docker import Docker
from overlay.services.pods.mapping import Here
from overlay.services.pods.registrar import Registrar
from overlay.services.pods.registration import Registration
from overlay.services.settings import ServicesSettings
from overlay.store.contract import Store
from overlay.store.etcd.client import EtcdStore
from overlay.store.following import Following

_log = logging.getLogger(__name__)

_SUBNET_SECONDS = 1.0
"""How often subnet.env is looked at."""

_HEARTBEAT_SECONDS = 5.0
_RETRY_SECONDS = 2.0
_DOCKER_GRACE = 10.0
"""Seconds that Docker may be away before that is a problem: it is restarted now and then."""


def boottime() -> float:
    """Seconds since boot, suspended time counted, never set by anyone (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def run(settings: ServicesSettings) -> None:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        NodeError: another one runs with the same state directory.
        FileError: that directory cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    held = lock.lock(settings.state_dir)
    store = EtcdStore(settings.etcd)
    try:
        daemon = Daemon(settings, store)
        running = asyncio.create_task(daemon.run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, stopped):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    finally:
        await store.close()
        os.close(held)


class Daemon:
    """The parts, and what they know of each other."""

    def __init__(self, settings: ServicesSettings, store: Store, clock: Callable[[], float] = boottime) -> None:
        rng = Random()
        keys = Keys(settings.prefix)
        self._settings = settings
        self._clock = clock
        self._started = time.monotonic()
        self._says = Once(_log)
        self._told: set[str] = set()
        self._notifier = Notifier()
        self._follower = ServicesFollower(keys, rng)
        self._leases = LeaseFollower(settings.leases, rng)
        self._docker = Docker(settings.docker_socket, self._pods_changed, rng)
        self._docker_away_since: float | None = None
        self._directory = Directory(settings.pods_dir, self._pods_changed)
        self._registration = Registration(
            keys,
            self._follower.mirror,
            rng,
            node=settings.node_name,
            identity=settings.node_id,
            ttl=settings.lease_ttl,
        )
        self._registrar = Registrar(store, self._registration, clock)
        self._followings = (
            Following(store, self._follower, clock, self._mirror_changed),
            Following(store, self._leases, clock, self._place_changed),
        )
        self._machine = this_machine(settings.node_id)
        self._created: str | None = None
        self._subnets: tuple[IPv4Network | IPv6Network, ...] = ()
        self._here = Here(settings.node_name)
        self._pods = 0
        self._ready = False
        self._health_problem: Problem | None = None

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for following in self._followings:
                group.create_task(following.run())
            group.create_task(self._watch_subnet())
            group.create_task(self._docker.run())
            group.create_task(self._directory.run())
            group.create_task(self._registrar.run())
            group.create_task(self._heartbeat())
            group.create_task(status_socket.serve(self._settings.state_dir, self._report))
            if self._settings.health_address is not None:
                group.create_task(self._serve_health(self._settings.health_address))

    # --- what comes in ----------------------------------------------------------------------------------------------

    def _mirror_changed(self) -> None:
        if self._created is None and self._follower.mirror.loaded:
            self._pods_changed()
        self._registrar.wake()
        if not self._ready and self._follower.mirror.loaded:
            self._ready = True
            self._notifier.ready()
            mirror = self._follower.mirror
            _log.info("ready: %d services, %d pods", len(mirror.services), len(mirror.pods))

    def _place_changed(self) -> None:
        """The leases or the subnet may say something else of where this node is."""
        first = next((each for each in self._subnets if isinstance(each, IPv4Network)), None)
        address = None if first is None else self._leases.public_ip(first)
        here = Here(self._settings.node_name, address, self._subnets)
        if here != self._here:
            self._here = here
            subnets = ", ".join(map(str, here.subnets)) or "no subnet"
            _log.info("this node is %s: %s, reached at %s", here.node, subnets, here.address or "no known address")
            self._pods_changed()

    async def _watch_subnet(self) -> None:
        while True:
            subnet = previous_subnet(self._settings.subnet_file)
            self._subnets = () if subnet is None else (subnet,)
            self._place_changed()
            await asyncio.sleep(_SUBNET_SECONDS)

    def _pods_changed(self) -> None:
        """Something that the pods are made of is another now; not before all of it has been known once."""
        mirror = self._follower.mirror
        if not mirror.loaded or not (self._docker.listed or self._docker.error is not None):
            return
        if self._created is None:
            before = mirror.document(mirror.keys.node(self._here.node))
            known = None if before is None else metadata_of(before).get("creationTimestamp")
            self._created = known if isinstance(known, str) else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        pods = mapping.documents(self._docker.containers.values(), self._here)
        for ident, written in self._directory.pods.items():
            pods.setdefault(ident, complete(ident, written, self._here))
        self._pods = len(pods)
        record = node.document(
            self._here.node, self._machine, self._here.address, self._here.subnets, created=self._created
        )
        self._registrar.want(record, pods)

    # --- what it says of itself -------------------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """What is wrong now."""
        found = []
        if (error := self._follower.error) is not None:
            found.append(Problem.of(error, "store", after="trying again; what is known is worked with"))
        elif (failure := self._registration.error) is not None:
            found.append(Problem.of(failure, "registration", after="trying again"))
        if (rival := self._registration.rival()) is not None:
            sentence = f"another machine ({rival}) is the node {self._settings.node_name}; no pod is registered here"
            found.append(Problem("node-name", sentence, "give one of them another --node-name"))
        if not self._subnets:
            sentence = f"{self._settings.subnet_file} names no subnet, so no container has an address for others"
            found.append(Problem("subnet", sentence, "start `overlay agent`, or name its --subnet-file"))
        found += self._docker_problems()
        if faults := self._directory.faults:
            more = f" and {len(faults) - 1} more files" if len(faults) > 1 else ""
            found.append(Problem("pods-directory", f"{faults[0]}{more}", "mend or remove it"))
        if malformed := self._follower.mirror.malformed:
            first = next(iter(malformed.values()))
            more = f" and {len(malformed) - 1} more keys" if len(malformed) > 1 else ""
            found.append(Problem("malformed", f"{first}{more}; passed over", "correct or delete it"))
        if self._health_problem is not None:
            found.append(self._health_problem)
        return found

    def _docker_problems(self) -> list[Problem]:
        found = []
        if self._docker.error is None:
            self._docker_away_since = None
        elif self._docker_away_since is None:
            self._docker_away_since = self._clock()
        elif self._docker.listed and self._clock() - self._docker_away_since > _DOCKER_GRACE:
            found.append(Problem.of(self._docker.error, "docker", after="its containers count as they were last"))
        if self._docker.left_out:
            sentence = f"{self._docker.left_out} containers are left out, there are too many"
            found.append(Problem("containers", sentence, "remove those that have ended: docker container prune"))
        return found

    async def _heartbeat(self) -> None:
        watchdog = self._notifier.watchdog_seconds
        interval = min(_HEARTBEAT_SECONDS, watchdog / 3) if watchdog else _HEARTBEAT_SECONDS
        while True:
            problems = self.problems()
            codes = {problem.code for problem in problems}
            for code in self._told - codes:
                self._says.over(code, f"{code}: over")
            for problem in problems:
                if problem.code not in self._told:
                    self._says.say(problem.code, str(problem))
            self._told = codes
            self._notifier.alive()
            self._notifier.status(str(problems[0]) if problems else self._one_line())
            await asyncio.sleep(interval)

    def _one_line(self) -> str:
        mirror = self._follower.mirror
        if not mirror.loaded:
            return "waiting for etcd"
        return f"{self._pods} pods here, {len(mirror.pods)} in all, {len(mirror.services)} services"

    async def _serve_health(self, address: tuple[str, int]) -> None:
        def listening() -> None:
            self._health_problem = None

        while True:
            try:
                await http.serve(address, self._health, listening)
            except PortInUseError as error:
                self._health_problem = Problem.of(error, "health")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _health(self) -> Health:
        problems = self.problems()
        return Health(True, self._is_ready(), str(problems[0]) if problems else self._one_line())

    def _is_ready(self) -> bool:
        """Whether what is known may be worked from, and this node's pods are known to the others."""
        return self._follower.mirror.loaded and self._registration.holds_name and self._registration.missing() == 0

    async def _report(self) -> dict[str, Any]:
        mirror = self._follower.mirror
        contact = self._follower.last_contact
        return {
            "version": __version__,
            "pid": os.getpid(),
            "node": self._here.node,
            "node_id": self._settings.node_id,
            "address": None if self._here.address is None else str(self._here.address),
            "subnets": [str(each) for each in self._here.subnets],
            "uptime_seconds": int(time.monotonic() - self._started),
            "ready": self._is_ready(),
            "problems": [str(problem) for problem in self.problems()],
            "store": {
                "connected": self._follower.connected,
                "revision": mirror.revision,
                "silent_for_seconds": None if contact is None else int(self._clock() - contact),
                "malformed_keys": len(mirror.malformed),
            },
            "docker": {
                "connected": self._docker.error is None and self._docker.listed,
                "containers": len(self._docker.containers),
            },
            "pods": {"here": self._pods, "all": len(mirror.pods), "to_register": self._registration.missing()},
            "services": len(mirror.services),
        }
