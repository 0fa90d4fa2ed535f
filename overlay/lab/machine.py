"""One machine of a lab: a namespace in which commands run; a node has an agent as well, a pod an address."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from overlay.errors import LabError
from overlay.lab import plan
from overlay.lab.process import Process
from overlay.lab.shell import inside, overlay_command, run, run_batch
from overlay.lab.state import MachineFiles
from overlay.lab.topology import LabSpec, NodeSpec, PodSpec, SubnetFile
from overlay.lab.traffic import Ping, ping

READY_SECONDS = 60.0
"""How long an agent may take to be ready. It should take under 3 s; a machine that is busy with tests is slow."""

_SILENT_SECONDS = 2.0
"""An agent that wrote its subnet file and has not said READY=1 for this long does not speak sd_notify(3)."""

_SOCKET_PATH_MAX = 107
"""Bytes in sockaddr_un's path, less its final zero (unix(7))."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace of a lab.

    Attributes:
        name: its short name, ``n1``, ``n1p1``, ``etcd`` or ``sw``.
        namespace: its full name under /run/netns.
        files: its directory.
    """

    name: str
    namespace: str
    files: MachineFiles

    def run(
        self, *argv: str, timeout: float = 60.0, check: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in here to its end. Raises LabError as :func:`overlay.lab.shell.run` does."""
        return run(argv, namespace=self.namespace, timeout=timeout, check=check, text=text)

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        """Starts a command in here, its output to be read by the caller, who also waits for it."""
        return subprocess.Popen(
            inside(self.namespace, argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def spawn(self, *argv: str, log: str, env: Mapping[str, str] | None = None) -> Process:
        """Starts a command in here that may outlive us; its output goes to the machine's ``log``.log."""
        return Process.spawn(argv, namespace=self.namespace, log=self.files.log(log), env=env)

    def ping(self, target: IPv4Address, **options: float) -> Ping:
        """Pings an address from here; see :func:`overlay.lab.traffic.ping`."""
        return ping(self.namespace, target, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Pod(Machine):
    """A pod; it has an address once its node has a subnet."""

    spec: PodSpec

    @property
    def address(self) -> IPv4Address:
        """Its address as the kernel has it. Raises LabError where it has none yet."""
        if (address := self.find_address()) is None:
            remedy = f"see whether node {self.spec.node} is up"
            raise LabError("has no address yet", about=f"pod {self.name}", remedy=remedy)
        return address

    def find_address(self) -> IPv4Address | None:
        """Its address as the kernel has it; None where it has none yet."""
        shown = json.loads(self.run("ip", "-j", "-4", "addr", "show", "dev", plan.INTERFACE, "scope", "global").stdout)
        infos = [info for link in shown for info in link.get("addr_info", ())]
        return IPv4Address(infos[0]["local"]) if infos else None


@dataclass(frozen=True, slots=True)
class Node(Machine):
    """A node: its agent is the installed command, started as a user would start it."""

    spec: NodeSpec
    lab: LabSpec
    pods: tuple[Pod, ...]

    @property
    def address(self) -> IPv4Address:
        """Its underlay address."""
        return self.spec.address.ip

    @property
    def agent(self) -> Process | None:
        """The running agent; None where it never ran or has ended."""
        process = self.files.process
        return process if process is not None and process.alive else None

    @property
    def subnet_file(self) -> SubnetFile | None:
        """What the agent wrote for docker; None where it has not."""
        try:
            return SubnetFile.parse(self.files.subnet_file.read_text())
        except FileNotFoundError:
            return None

    def launch_agent(
        self, *arguments: str, env: Mapping[str, str] | None = None, command: str | None = None
    ) -> Readiness:
        """Starts the agent, of the installed command or of another version's; ``wait`` on what this returns until it is
        ready."""
        if self.agent is not None:
            raise LabError("is running already", about=f"agent of {self.name}")
        words = plan.agent_command(self.lab, command or overlay_command(), str(self.files.directory), arguments)
        ready = Readiness.of(self)
        try:
            process = self.spawn(
                *words,
                log="agent",
                env={**self._identity, "NOTIFY_SOCKET": ready.path, **(env or {})},
            )
        except LabError:
            ready.close()
            raise
        self.files.remember(process)
        return ready

    def start_agent(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Starts the agent, waits until it is ready, and gives docker0 and the pods what it leased.

        Raises:
            LabError: it ended, or was not ready in time; says what it logged last.
        """
        self.launch_agent(*arguments, env=env).wait()
        self.connect_pods()

    def stop_agent(self) -> int | None:
        """SIGTERM, as systemd stops it; its exit status if this process started it."""
        return self._running_agent().stop()

    def kill_agent(self) -> None:
        """SIGKILL, to the agent alone."""
        self._running_agent().kill()

    def freeze_agent(self) -> None:
        self._running_agent().signal(signal.SIGSTOP)

    def thaw_agent(self) -> None:
        self._running_agent().signal(signal.SIGCONT)

    def connect_pods(self) -> SubnetFile:
        """Gives docker0 and the pods the addresses and MTU of subnet.env, as a restart of Docker would.

        Where docker0, which is last, has them already, nothing is touched: packets may be on their way through it.

        Raises:
            LabError: there is no subnet file.
        """
        subnet = self.subnet_file
        if subnet is None:
            raise LabError("is not there", about=str(self.files.subnet_file), remedy="start the agent first")
        (bridge,) = json.loads(self.run("ip", "-j", "addr", "show", "dev", plan.POD_BRIDGE).stdout)
        addresses = [each for each in bridge["addr_info"] if each["family"] == "inet"]
        present = [IPv4Interface(f"{each['local']}/{each['prefixlen']}") for each in addresses]
        if (present, bridge["mtu"]) == ([subnet.gateway], subnet.mtu):
            return subnet
        for namespace, batch in plan.connect_pod_batches(self.spec, subnet):
            run_batch(batch, namespace=namespace)
        run_batch(plan.connect_node_batch(self.spec, subnet), namespace=self.namespace)
        return subnet

    def overlay(self, *arguments: str, timeout: float = 30.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a subcommand of ``overlay`` here that talks to etcd, with etcd's flags added."""
        argv = [overlay_command(), *arguments, "--etcd-endpoints", self.lab.endpoint]
        return run(argv, namespace=self.namespace, timeout=timeout, check=check, env=self._identity)

    @property
    def _identity(self) -> dict[str, str]:
        """All nodes share this machine's id; their short names are easier to read than what they would make of it."""
        return {"FLANNELD_NODE_ID": self.name}

    def _running_agent(self) -> Process:
        agent = self.agent
        if agent is None:
            raise LabError("is not running", about=f"agent of {self.name}")
        return agent


class Readiness:
    """Waits for one agent: for READY=1 on its notify socket or, if it does not speak that, for its subnet file."""

    def __init__(self, node: Node, listener: socket.socket, path: str) -> None:
        self.path = path
        self._node = node
        self._listener = listener
        self._file_before = self._file_identity()

    @classmethod
    def of(cls, node: Node) -> Readiness:
        """Opens the socket; do it before the agent starts. Raises LabError if its path is too long."""
        file = node.files.directory / "ready.sock"
        if len(bytes(file)) > _SOCKET_PATH_MAX:
            raise LabError("is too long for a socket", about=f"path {file}", remedy="choose a shorter --state")
        file.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(file))
        listener.settimeout(0.05)
        return cls(node, listener, str(file))

    def wait(self, timeout: float = READY_SECONDS) -> None:
        """Returns once the agent is ready.

        Raises:
            LabError: it ended, or was not ready in ``timeout`` seconds; says what it logged last.
        """
        deadline = time.monotonic() + timeout
        try:
            self._wait(deadline)
        finally:
            self.close()

    def close(self) -> None:
        self._listener.close()

    def _wait(self, deadline: float) -> None:
        written: float | None = None
        while not self._said_ready():
            now = time.monotonic()
            if self._node.agent is None:
                raise self._error(self._end())
            if written is None and self._file_identity() not in (None, self._file_before):
                written = now
            if written is not None and now - written > _SILENT_SECONDS:
                return
            if now > deadline:
                raise self._error("was not ready in time")

    def _said_ready(self) -> bool:
        try:
            return b"READY=1" in self._listener.recv(4096).splitlines()
        except TimeoutError:
            return False

    def _file_identity(self) -> tuple[int, int] | None:
        """Changes whenever the file is written anew."""
        try:
            found = self._node.files.subnet_file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_ctime_ns

    def _end(self) -> str:
        process = self._node.files.process
        status = process.wait(1.0) if process is not None else None
        if status is None:
            return "ended"
        return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"

    def _error(self, cause: str) -> LabError:
        said = self._node.files.last_words("agent")
        return LabError(
            f"{cause}, and said last: {said}" if said else f"{cause} without a word",
            about=f"agent of {self._node.name}",
        )
