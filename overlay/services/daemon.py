"""``overlay services``: follows etcd, and registers this node and its pods there.

Tasks, and loops (:class:`~overlay.daemon.reconcile.Loop`), which look now, when told and after a while::

    mirror      follows all services' keys: what every node computes from
    leases      follows the network's leases: at which address this node is reached
    docker      follows Docker's containers
    directory   follows pods.d
    place       (loop) subnet.env and the leases → where this node is
    pods        (loop) containers, files and the place → what is wanted in etcd
    registrar   keeps this node, its pods and their etcd lease in etcd
    proxy       (loop) the mirror → what addresses mean here → the kernel
    events      (loop) what that cannot do for a Service → v1 Events
    flows       (loop) ends flows of UDP to backends that are gone
    network     tells the loops of changes of this machine's network
    state       (loop) what is wrong
    heartbeat   systemd's status and watchdog
    dns         (loops) the address, the rules and the worker that answers names
    skydns      (loop) the same names as records in etcd, for a CoreDNS; on request
    report, health  answer ``overlay services --status`` and probes

Everything that may fail while the world is incomplete (no etcd, no Docker, no subnet yet) is waited for, and told.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from ipaddress import IPv4Network
from random import Random

import msgspec

from overlay import __version__
from overlay.daemon.clock import boottime
from overlay.daemon.http import Health
from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion
from overlay.daemon.reconcile import Look
from overlay.linux.changes import ADDRESSING, changes
from overlay.problem import Problem, Severity
from overlay.services.dns.service import Names
from overlay.services.events.reporter import Reporter
from overlay.services.events.reporting import Remark
from overlay.services.keys import Keys
from overlay.services.lease import LeaseFollower, networks_in, subnets_in
from overlay.services.machine import this_machine
from overlay.services.mirror import ServicesFollower
from overlay.services.pods import node
from overlay.services.pods.container import is_container_id
from overlay.services.pods.directory import Directory, complete
from overlay.services.pods.docker import Docker
from overlay.services.pods.mapping import Here, Mapper
from overlay.services.pods.registrar import Registrar
from overlay.services.pods.registration import Registration
from overlay.services.proxy.base import Surroundings
from overlay.services.proxy.keeper import Keeper, Whereabouts
from overlay.services.proxy.stale import StaleFlows
from overlay.services.settings import ServicesSettings
from overlay.services.skydns.publisher import Publisher, resign
from overlay.services.table import Table
from overlay.store.contract import Store
from overlay.store.etcd.client import EtcdStore
from overlay.store.following import Following

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.5
"""How often is looked whether all is known by now that pods are made of."""

_SUBNET_SECONDS = 1.0
"""How often subnet.env is looked at."""

_STATE_SECONDS = 5.0
"""How old what is known to be wrong may be."""

_GRACE = 10.0
"""Seconds that Docker may be away before that is a problem, or taken for how it is here: it is restarted now and then.
So long at most is also waited for the leases, which etcd may not let us read."""


async def run(settings: ServicesSettings) -> None:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        NodeError: another one runs with the same state directory.
        FileError: that directory cannot be used.
    """
    daemon = Daemon("services", settings.state_dir)
    await daemon.run(lambda: _bring_up(daemon, settings))


async def _bring_up(daemon: Daemon, settings: ServicesSettings) -> None:
    store = EtcdStore(settings.etcd)
    daemon.at_end(store.close)
    _Services(daemon, settings, store).start()


class _Services:
    """The parts, and what they know of each other."""

    def __init__(self, daemon: Daemon, settings: ServicesSettings, store: Store) -> None:
        rng, keys = Random(), Keys(settings.prefix)
        self._daemon = daemon
        self._settings = settings
        self._place, self._pods, self._proxy = Occasion(), Occasion(), Occasion()
        self._follower = ServicesFollower(keys, rng, settings.node_name)
        self._leases = LeaseFollower(settings.leases, rng)
        self._following = {
            "mirror": Following(store, self._follower, boottime, self._mirror_changed),
            "leases": Following(store, self._leases, boottime, self._place.tell),
        }
        self._docker = Docker(settings.docker_socket, self._docker_changed, rng)
        self._docker_is_here = False
        self._docker_away_since: float | None = None
        self._directory = Directory(settings.pods_dir, self._pods.tell)
        self._registration = Registration(
            keys, self._follower.mirror, rng,
            node=settings.node_name, identity=settings.node_id, ttl=settings.lease_ttl,
        )  # fmt: skip
        self._flows = StaleFlows()
        self._keeper = Keeper(
            self._follower.mirror, settings.node_name, settings.proxy_mode,
            Surroundings(settings.state_dir, settings.scheduler, settings.cgroup), self._proxy_applied,
        )  # fmt: skip
        self._reporter = Reporter(
            store, self._follower.mirror, rng, lambda: self._registration.holds_name, node=settings.node_name
        )
        self._registrar = Registrar(store, self._registration, boottime)
        self._machine = this_machine(settings.node_id)
        self._here = Here(settings.node_name)
        self._mapper = Mapper()
        self._names = None if settings.dns is None else Names(settings.dns, self._follower.mirror, self._subnets_here)
        self._publisher = None if settings.skydns is None else Publisher(
            store, self._follower.mirror, rng, lambda: self._registration.holds_name,
            node=settings.node_name, prefix=settings.skydns, pods=settings.pod_names,
        )  # fmt: skip
        self._store = store
        self._found: node.Before | None = None
        self._unknown = set[str]()
        self._leases_seen = False
        self._registered = 0
        self._was_ready = False

    def start(self) -> None:
        """Starts all tasks."""
        daemon = self._daemon
        for name, following in self._following.items():
            daemon.start(name, following.run())
        daemon.start("docker", self._docker.run())
        daemon.start("directory", self._directory.run())
        daemon.start("registrar", self._registrar.run())
        daemon.keep("place", self._look_at_place, every=_SUBNET_SECONDS, occasion=self._place)
        daemon.keep("pods", self._look_at_pods, occasion=self._pods)
        daemon.keep("proxy", self._keeper.look, severity=Severity.DOWN, occasion=self._proxy)
        self._reporter.start(daemon)
        daemon.keep("flows", self._flows.look, occasion=self._flows.occasion)
        daemon.start("network", self._hear_of_the_network())
        daemon.at_end(self._keeper.close)
        daemon.keep("state", self._look_at_state, every=_STATE_SECONDS)
        if self._names is not None:
            self._names.start(daemon)
        if self._publisher is not None:
            self._publisher.start(daemon)
        else:
            daemon.keep("skydns", self._look_at_resignation, every=3600.0)
        daemon.answer(self._report)
        daemon.beat(self._is_alive, self._one_line)
        if self._settings.health_address is not None:
            daemon.answer_probes(self._settings.health_address, self._health)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def _mirror_changed(self) -> None:
        mirror = self._follower.mirror
        self._registrar.wake()
        if self._names is not None:
            self._names.changed()
        if self._publisher is not None:
            self._publisher.changed()
        self._keeper.touch()
        self._proxy.tell()
        if mirror.loaded and not self._was_ready:
            self._was_ready = True
            self._pods.tell()
            self._daemon.notifier.ready()
            _log.info("ready: %d services, %d pods in all", len(mirror.services), len(mirror.pods))

    def _proxy_applied(self, table: Table) -> None:
        self._flows.applied(table)
        self._reporter.say(Remark((name.namespace, name.service), remark) for name, remark in self._keeper.remarks)

    async def _look_at_resignation(self) -> Look:
        if not (self._follower.mirror.loaded and self._registration.holds_name):
            return Look(due=_AGAIN_SECONDS)
        await resign(self._store, self._follower.mirror, self._settings.node_name)
        return Look()

    def _subnets_here(self) -> list[IPv4Network]:
        return [subnet for subnet in self._here.subnets if isinstance(subnet, IPv4Network)]

    def _docker_changed(self) -> None:
        self._pods.tell()
        was_here, self._docker_is_here = self._docker_is_here, self._docker.listed and self._docker.error is None
        if self._docker_is_here and not was_here:
            self._keeper.network_changed()  # a dockerd that starts arranges its rules anew, and no device tells of it
            self._proxy.tell()

    async def _hear_of_the_network(self) -> None:
        async for _ in changes(ADDRESSING):
            self._keeper.network_changed()
            self._proxy.tell()

    async def _look_at_place(self) -> Look:
        subnets = subnets_in(self._settings.subnet_file)
        first = next((subnet for subnet in subnets if isinstance(subnet, IPv4Network)), None)
        here = Here(self._settings.node_name, None if first is None else self._leases.public_ip(first), subnets)
        if self._leases.known and not self._leases_seen:
            self._leases_seen = True
            self._pods.tell()
        ours = tuple(each for each in subnets if isinstance(each, IPv4Network))
        if self._keeper.is_at(Whereabouts(networks_in(self._settings.subnet_file), ours)):
            self._proxy.tell()
        if here != self._here:
            self._here = here
            named = ", ".join(map(str, subnets)) or "no subnet"
            _log.info("this node is %s: %s, reached at %s", here.node, named, here.address or "no known address")
            self._pods.tell()
        return Look()

    async def _look_at_pods(self) -> Look:
        """What is to be in etcd; nothing before all that it is made of has been known once, or cannot be: else a
        restart would show for a moment that there is no pod, or none with an address."""
        mirror = self._follower.mirror
        if not (mirror.loaded and self._place_is_known() and self._docker_is_known() and self._directory.looked):
            return Look(due=_AGAIN_SECONDS)
        pods = self._mapper.documents(self._docker.containers.values(), self._here)
        for ident, written in self._directory.pods.items():
            pods.setdefault(ident, complete(ident, written, self._here))
        self._registered = len(pods)
        before = self._before(mirror.keys)
        record = node.document(self._here.node, self._machine, self._here.address, self._here.subnets, before.created)
        self._unknown = self._not_described(mirror.keys, before)
        self._registrar.want(record, pods, self._unknown)
        return Look()

    def _not_described(self, keys: Keys, before: node.Before) -> set[str]:
        """Pods that etcd has, and of whose containers Docker has said nothing yet. None has outlived the machine."""
        if before.boot_id != self._machine.boot_id:
            return set()
        registered = map(keys.parse_pod, self._follower.mirror.pods_of(self._here.node))
        idents = (pod.id for pod in registered if pod is not None)
        return {ident for ident in idents if is_container_id(ident) and not self._docker.knows(ident)}

    def _before(self, keys: Keys) -> node.Before:
        """What etcd had of this node when this process began."""
        if self._found is None:
            self._found = node.before(self._follower.mirror.document(keys.node(self._here.node)), datetime.now(UTC))
        return self._found

    def _place_is_known(self) -> bool:
        return self._leases_seen or self._daemon.uptime > _GRACE

    def _docker_is_known(self) -> bool:
        return self._docker.listed or not self._settings.docker_socket.exists() or self._docker_is_away()

    # --- what it says of itself -------------------------------------------------------------------------------------

    async def _look_at_state(self) -> Look:
        return Look((*self._store_problems(), *self._docker_problems(), *self._input_problems()))

    def _store_problems(self) -> list[Problem]:
        if (error := self._follower.error) is not None:
            return [Problem.of(error, "store", after="trying again; what is known is worked with")]
        if (failure := self._registration.error) is not None:
            return [Problem.of(failure, "registration", after="trying again")]
        if (rival := self._registration.rival()) is not None:
            sentence = f"another machine ({rival}) is the node {self._settings.node_name}; no pod is registered here"
            remedy = "give one of them another --node-name"
            return [Problem("node-name", sentence, remedy, severity=Severity.DOWN)]
        return []

    def _docker_problems(self) -> list[Problem]:
        found = []
        if self._docker_is_away() and (self._docker.listed or self._unknown):
            assert self._docker.error is not None
            found.append(Problem.of(self._docker.error, "docker", after="its containers count as they were last"))
        if self._docker.left_out:
            sentence = f"{self._docker.left_out} containers are left out, there are too many"
            found.append(Problem("containers", sentence, "remove those that have ended: docker container prune"))
        return found

    def _docker_is_away(self) -> bool:
        """Whether Docker does not answer, and for longer than it takes to restart it."""
        if self._docker.error is None:
            self._docker_away_since = None
            return False
        if self._docker_away_since is None:
            self._docker_away_since = boottime()
        return boottime() - self._docker_away_since > _GRACE

    def _input_problems(self) -> list[Problem]:
        found = []
        if not self._here.subnets:
            sentence = f"{self._settings.subnet_file} names no subnet, so no container has an address for others"
            found.append(Problem("subnet", sentence, "start `overlay agent`, or name its --subnet-file"))
        if faults := self._directory.faults:
            found.append(Problem("pods-directory", _and_more(faults[0], len(faults), "files"), "mend or remove it"))
        if malformed := self._follower.mirror.malformed:
            first = str(next(iter(malformed.values())))
            found.append(Problem("malformed", _and_more(first, len(malformed), "keys"), "correct or delete it"))
        return found

    async def _is_alive(self) -> bool:
        return True

    def _one_line(self) -> str:
        mirror = self._follower.mirror
        if problems := self._daemon.troubles.now:
            return str(problems[0])
        if not mirror.loaded:
            return "waiting for etcd"
        return f"{self._registered} pods here, {len(mirror.pods)} in all, {len(mirror.services)} services"

    async def _health(self) -> Health:
        return Health(True, self._is_ready(), self._one_line())

    def _is_ready(self) -> bool:
        """Whether what is known may be worked from, and this node's pods are known to the others."""
        return self._follower.mirror.loaded and self._registration.holds_name and self._registration.missing() == 0

    async def _report(self) -> bytes:
        mirror, docker = self._follower.mirror, self._docker
        contact = self._follower.last_contact
        report = {
            "version": __version__,
            "pid": os.getpid(),
            "node": self._here.node,
            "node_id": self._settings.node_id,
            "address": None if self._here.address is None else str(self._here.address),
            "subnets": [str(each) for each in self._here.subnets],
            "uptime_seconds": int(self._daemon.uptime),
            "ready": self._is_ready(),
            "problems": [str(problem) for problem in self._daemon.troubles.now],
            "problem_details": [problem.parts for problem in self._daemon.troubles.now],
            "store": {
                "connected": self._follower.connected,
                "revision": mirror.revision,
                "silent_for_seconds": None if contact is None else int(boottime() - contact),
                "malformed_keys": len(mirror.malformed),
            },
            "docker": {"connected": docker.listed and docker.error is None, "containers": len(docker.containers)},
            "pods": {
                "here": self._registered,
                "all": len(mirror.pods),
                "to_register": self._registration.missing(),
            },
            "services": len(mirror.services),
            "dns": None if self._names is None else await self._names.report(),
            "skydns": None if self._publisher is None else self._publisher.facts(),
            "proxy": {**self._keeper.facts(), "stale_flows_ended": self._flows.deleted},
            "events": self._reporter.facts(),
        }
        return msgspec.json.encode(report)


def _and_more(first: str, count: int, what: str) -> str:
    return first if count == 1 else f"{first}, and {count - 1} more {what}"
