"""A whole lab, from up to down."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from overlay.errors import LabError
from overlay.lab import bpffs, namespace, plan
from overlay.lab.machine import Machine, Node, Pod
from overlay.lab.process import Process, poll
from overlay.lab.shell import overlay_command, require_programs, require_root, run, run_batch
from overlay.lab.state import StateDirectory
from overlay.lab.teardown import Removed, remove_orphans, tear_down
from overlay.lab.topology import ETCD_CLIENT_PORT, LabSpec, NodeSpec
from overlay.lab.traffic import listens

CONFIG_KEY = "/coreos.com/network/config"

_ETCD_SECONDS = 20.0

Progress = Callable[[str], None]
"""Told, in words, what is done next."""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Lab:
    """A lab that is there: its description, its files, and its machines to work with."""

    spec: LabSpec
    state: StateDirectory

    @classmethod
    def up(
        cls,
        spec: LabSpec,
        state: StateDirectory | None = None,
        *,
        owner: Process | None = None,
        progress: Progress = _silent,
    ) -> Lab:
        """Makes a lab that stays until :meth:`down`; removes what it made if it cannot make all of it.

        Args:
            spec: what to make.
            state: where its files go; by default /run/overlay-lab/NAME.
            owner: the process that will call ``down``; should it die before, any later lab's ``up`` removes this one.
            progress: is told what is done next.

        Raises:
            LabError: no root, a program is missing, the lab is there already, or something did not start.
        """
        require_root()
        require_programs("ip", "nsenter", *(("etcd", "etcdctl") if spec.agents else ()))
        if spec.wire or spec.gro:
            require_programs("ethtool")
        overlay_command()
        remove_orphans()
        lab = cls(spec, state or StateDirectory.default(spec.name))
        if taken := sorted(set(spec.namespaces) & set(namespace.existing(spec.prefix))):
            raise LabError(
                f"namespace {taken[0]} is there already",
                about=f"lab {spec.name}",
                remedy=f"overlay lab down --name {spec.name}, or choose another --name",
            )
        lab.state.claim(spec, owner)
        bpffs.note()
        try:
            lab._build(progress)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def load(cls, name: str, state: StateDirectory | None = None) -> Lab:
        """The lab of this name that is up. Raises LabError where there is none."""
        require_root()
        state = state or StateDirectory.default(name)
        return cls(state.load()[0], state)

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, spec: LabSpec, state: StateDirectory | None = None, *, progress: Progress = _silent
    ) -> Iterator[Lab]:
        """A lab for the length of a ``with`` statement. Should this process be killed, any later one removes it."""
        lab = cls.up(spec, state, owner=Process.current(), progress=progress)
        try:
            yield lab
        finally:
            lab.down()

    def down(self) -> Removed:
        """Removes all of it."""
        return tear_down(self.spec.name, self.state)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self._node(spec) for spec in self.spec.node_specs)

    @property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(pod for node in self.nodes for pod in node.pods)

    @property
    def etcd(self) -> Machine:
        return self.machine("etcd")

    @property
    def switch(self) -> Machine:
        return self.machine("sw")

    def node(self, name: str) -> Node:
        """The node of this name. Raises LabError where there is none."""
        for spec in self.spec.node_specs:
            if spec.name == name:
                return self._node(spec)
        raise self._no_machine(name)

    def machine(self, name: str) -> Machine:
        """Any machine by its short name: a node, a pod, ``etcd`` or ``sw``. Raises LabError where there is none."""
        if name not in self.spec.machines:
            raise self._no_machine(name)
        return Machine(name, self.spec.machines[name], self.state.machine(name))

    def start_etcd(self) -> None:
        """Starts etcd, on the data that it had before, and waits until it answers."""
        etcd = self.etcd
        process = etcd.spawn(*plan.etcd_command(self.spec, str(etcd.files.directory / "data")), log="etcd")
        etcd.files.remember(process)

        def ended_or_listening() -> bool:
            return not process.alive or listens(etcd.namespace, ETCD_CLIENT_PORT)

        if not poll(ended_or_listening, _ETCD_SECONDS):
            raise LabError(f"does not listen after {_ETCD_SECONDS:g} s", about=f"etcd at {self.spec.endpoint}")
        if not process.alive:
            raise LabError(f"ended, and said last: {etcd.files.last_words('etcd')[-300:]}", about="etcd")
        etcd.run("etcdctl", f"--command-timeout={_ETCD_SECONDS:g}s", "endpoint", "health")

    def stop_etcd(self) -> None:
        """SIGKILL: nothing is written that was not."""
        process = self.etcd.files.process
        if process is not None:
            process.kill()

    def put_config(self, text: str | None = None) -> None:
        """Writes the network's config into etcd: the description's, or ``text`` whatever it is."""
        value = json.dumps(self.spec.network_config()) if text is None else text
        self.etcd.run("etcdctl", "put", CONFIG_KEY, text=value)

    def start_agents(self) -> None:
        """Starts all agents at once, waits for all of them, and connects the pods."""
        with contextlib.ExitStack() as stack:
            waiting = []
            for node in self.nodes:
                ready = node.launch_agent()
                stack.callback(ready.close)
                waiting.append((node, ready))
            for _, ready in waiting:
                ready.wait()
        for node in self.nodes:
            node.connect_pods()

    def set_offloads(self) -> None:
        """Makes the underlay's offloads what the description says."""
        for where, argv in plan.offload_commands(self.spec):
            run(argv, namespace=where)

    def _build(self, progress: Progress) -> None:
        progress(f"{len(self.spec.namespaces)} network namespaces, joined by a bridge")
        run_batch(plan.namespace_batch(self.spec))
        for name in self.spec.namespaces:
            run_batch(plan.mark_batch(self.spec), namespace=name)
        for node in self.spec.node_specs:
            run(["sh", "-e"], namespace=node.namespace, text=plan.sysctl_script(plan.NODE_SYSCTLS))
        run_batch(plan.switch_batch(self.spec), namespace=self.spec.switch)
        run_batch(plan.take_batch(self.spec))
        run_batch(plan.etcd_batch(self.spec), namespace=self.spec.etcd)
        for node in self.spec.node_specs:
            run_batch(plan.node_batch(self.spec, node), namespace=node.namespace)
        if self.spec.wire or self.spec.gro:
            self.set_offloads()
        if self.spec.agents:
            progress(f"etcd at {self.spec.endpoint}")
            self.start_etcd()
            self.put_config()
            progress(f"{self.spec.nodes} agents")
            self.start_agents()

    def _node(self, spec: NodeSpec) -> Node:
        pods = tuple(Pod(pod.name, pod.namespace, self.state.machine(pod.name), pod) for pod in spec.pods)
        return Node(spec.name, spec.namespace, self.state.machine(spec.name), spec, self.spec, pods)

    def _no_machine(self, name: str) -> LabError:
        return LabError(
            f"has no {name}", about=f"lab {self.spec.name}", remedy=f"it has {', '.join(self.spec.machines)}"
        )
