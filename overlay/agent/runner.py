"""Builds the parts of the agent, and starts what runs for as long as it does.

Tasks, and loops (:class:`~overlay.daemon.reconcile.Loop`), which look now, when told and after a while::

    control     follows etcd and keeps our lease; publishes ControlState
    peers       ControlState → backend, at once: a new peer must not wait for anything
    events      tells the next of the kernel's links, addresses and routes
    underlay    (loop) which interface it is, and what a Network collides with; has control told
    etcd's names  keeps the addresses of etcd's members, which the Network must not cover
    backend     (loop) has the wanted config's prepared, without which nothing is leased
    node        (loop) ControlState and underlay → this machine
    announce    runs ``--on-subnet-change``
    firewall    (loop) masquerading and forwarding rules, every ``--iptables-resync`` seconds: netlink tells nothing
    datapath    follows the peers; ends only by an error, which then ends the agent
    neighbours  (loop) looks whether Docker and the firewalls of others let packets pass
    heartbeat   systemd's status and watchdog, from what control and datapath say of themselves
    report, health  answer ``overlay status`` and probes

Everything that may fail while the world is incomplete (no etcd, no config, no interface, a port in use) is tried again,
and a problem meanwhile. What can never work (no privileges, wrong flags, no means for the config's backend) ends the
agent with one line.
"""

from __future__ import annotations

import asyncio
import logging

from overlay.agent import past as memory
from overlay.agent.account import Account
from overlay.agent.local import Node
from overlay.agent.settings import AgentSettings
from overlay.agent.upkeep import Upkeep
from overlay.agent.whereabouts import Whereabouts
from overlay.control.plane import ControlPlane, ControlSettings
from overlay.daemon.lifetime import Daemon
from overlay.daemon.occasions import Occasion, changes_of_this_machine
from overlay.node import preflight
from overlay.store.etcd.client import EtcdStore

_log = logging.getLogger(__name__)

_RELEASE_SECONDS = 5.0
"""How long a shutdown waits for etcd: systemd's default patience is 90 s, an operator's is less."""


async def run(settings: AgentSettings, notices: tuple[str, ...] = ()) -> None:
    """Runs the agent of this node until SIGTERM or SIGINT.

    Args:
        notices: things about the command line that belong into the log.

    Raises:
        PrivilegeError: this machine can never run it.
        NodeError: another agent runs with the same state directory.
        DeviceError, DatapathError: the machine has not what the first config's backend needs, or that died and cannot
            be mended.
    """
    for notice in notices:
        _log.warning("%s", notice)
    preflight.may_change_network()
    daemon = Daemon("agent", settings.state_dir)
    await daemon.run(lambda: _bring_up(daemon, settings))


async def _bring_up(daemon: Daemon, settings: AgentSettings) -> None:
    """Waits for an underlay, makes the parts, and starts them."""
    node = Node(settings)
    daemon.at_end(node.close)  # the last of all: while the rest ends, packets pass
    await node.anticipate()
    store = EtcdStore(settings.etcd)
    daemon.at_end(store.close)
    directories = tuple(dict.fromkeys((settings.state_dir, settings.data_dir)))
    remembered = await asyncio.to_thread(memory.recall, directories, settings.subnet_file)
    changes = Occasion()
    daemon.start("events", changes_of_this_machine(changes))
    whereabouts = Whereabouts(settings, store, daemon.notifier, remembered)
    daemon.keep("underlay", whereabouts.look, occasion=changes)
    underlay = await whereabouts.first()
    control = ControlPlane(
        store,
        ControlSettings(
            prefix=settings.prefix,
            ttl=settings.lease_ttl,
            margin=settings.renew_margin,
            check_config=whereabouts.check_config,
            advertise=node.advertisement,
        ),
        whereabouts.identity(underlay),
        remembered,
        troubles=daemon.troubles,
    )
    whereabouts.tell(control)
    upkeep = Upkeep(daemon, settings, whereabouts, control, node)
    account = Account(daemon, settings, store=store, whereabouts=whereabouts, control=control, node=node, upkeep=upkeep)

    def up() -> None:
        daemon.notifier.status(account.one_line())
        daemon.notifier.ready()

    daemon.start("control", control.run())
    daemon.start("etcd's names", whereabouts.resolve())
    daemon.start("announce", node.announce())
    upkeep.start(up)
    daemon.beat(account.is_alive, account.one_line)
    daemon.answer(account.report)
    if settings.health_address is not None:
        daemon.answer_probes(settings.health_address, account.health)
    if settings.release_on_exit:
        daemon.before_stop(lambda: _give_lease_back(control))


async def _give_lease_back(control: ControlPlane) -> None:
    """What ``--release-on-exit`` asks for."""
    try:
        async with asyncio.timeout(_RELEASE_SECONDS):
            await control.release()
    except TimeoutError:
        _log.warning("the lease was not given back, etcd does not answer: it ends by itself")
