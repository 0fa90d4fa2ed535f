"""Real etcd servers for tests: one member or several on loopback ports, plain or TLS, to be killed, frozen and wiped.

A server dies with the process that started it (``setpriv --pdeathsig``), so not even a killed test run leaves one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from overlay.errors import OverlayError

START_LIMIT = 30.0
"""Seconds that a member, or a quorum, may take to answer; on an idle machine it is 1 to 3."""

PROGRAMS = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "ip": "iproute2",
    "nft": "nftables",
    "openssl": "openssl",
    "setpriv": "util-linux",
}
"""What the tests run, and Debian's package that has it."""


ETCD_DIRECTORY = os.environ.get("OVERLAY_ETCD", "")
"""Where to take ``etcd`` and ``etcdctl`` from, to test against a version that is not installed; empty: as installed."""


def program(name: str) -> str:
    """The command of that name: one of etcd's from ETCD_DIRECTORY, if given."""
    return str(Path(ETCD_DIRECTORY) / name) if ETCD_DIRECTORY and name in ("etcd", "etcdctl", "etcdutl") else name


def require(*programs: str) -> None:
    """Skips the test, or fails it where OVERLAY_REQUIRE_ALL=1, unless all ``programs`` are installed."""
    missing = [each for each in programs if shutil.which(program(each)) is None]
    if missing:
        do_without(", ".join(f"{each} (package {PROGRAMS[each]})" for each in missing))


def do_without(told: str) -> NoReturn:
    """Skips the test for want of what is ``told``, or fails it where OVERLAY_REQUIRE_ALL=1."""
    if os.environ.get("OVERLAY_REQUIRE_ALL") == "1":
        pytest.fail(f"missing: {told}")
    pytest.skip(f"missing: {told}")


def free_ports(count: int) -> list[int]:
    """TCP ports on 127.0.0.1 that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


async def eventually(
    condition: Callable[[], Awaitable[object]], limit: float = START_LIMIT, pause: float = 0.05
) -> None:
    """Waits until ``condition`` is true and does not raise an error of ours; AssertionError after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = await condition()
        except OverlayError as error:
            last = error
        else:
            if last:
                return
        await asyncio.sleep(pause)
    raise AssertionError(f"not within {limit:g} s; last: {last}")


@dataclass(frozen=True)
class Authority:
    """A CA of its own, and certificates signed by it, as PEM files in ``directory``."""

    directory: Path
    name: str = "ca"

    @classmethod
    def make(cls, directory: Path, name: str = "ca") -> Authority:
        require("openssl")
        directory.mkdir(parents=True, exist_ok=True)
        authority = cls(directory, name)
        _openssl(
            "req",
            "-x509",
            *_KEY,
            "-keyout",
            directory / f"{name}.key",
            "-out",
            authority.ca,
            *_DAYS,
            "-subj",
            f"/CN={name}",
            # Without it Python 3.13 and newer trust no authority (ssl.VERIFY_X509_STRICT).
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        )
        return authority

    @property
    def ca(self) -> Path:
        return self.directory / f"{self.name}.pem"

    def issue(self, name: str, alternatives: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """A certificate and its key for ``alternatives`` (OpenSSL's subjectAltName), empty for none."""
        certificate, key, request = (self.directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        extensions = self.directory / f"{name}.ext"
        names = f"subjectAltName={alternatives}\n" if alternatives else ""
        extensions.write_text(f"{names}extendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.directory / f"{self.name}.key",
            "-CAcreateserial", "-out", certificate, *_DAYS, "-extfile", extensions,
        )  # fmt: skip
        return certificate, key


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = ("-days", "2")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@dataclass(frozen=True)
class Place:
    """Where a member lives: the address that it listens on (IPv6 in brackets), and what takes a command there."""

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


@dataclass
class Member:
    """One etcd process and its data directory."""

    name: str
    url: str
    peer_url: str
    directory: Path
    place: Place
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """SIGKILL, as a power cut to the process; a frozen one dies too."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as an operator stops it."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nobody answers, from the moment that this returns."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # on a busy machine threads run on for a while

    def thaw(self) -> None:
        """Ends :meth:`freeze`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Loses all data; the member must not run."""
        assert self.process is None
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(START_LIMIT)
            finally:
                self.process.kill()
                self.process.wait()
                self.process = None


@dataclass
class Etcd:
    """A cluster of one member or several; a context manager that starts all and leaves nothing.

    Attributes:
        directory: holds data and logs.
        size: number of members.
        authority: of the servers' certificates; None for plain http.
        ask_for_certificate: whether clients must have one of ``authority`` too.
        options: of etcd, for every member.
        places: of the members in turn; loopback where there is none.
    """

    directory: Path
    size: int = 1
    authority: Authority | None = None
    ask_for_certificate: bool = False
    options: Sequence[str] = ()
    places: Sequence[Place] = ()
    members: list[Member] = field(default_factory=list)
    login: str = ""

    def __enter__(self) -> Etcd:
        require("etcd", "etcdctl", "setpriv")
        scheme = "https" if self.authority else "http"
        ports = free_ports(2 * self.size)
        for index in range(self.size):
            client, peer = ports[2 * index : 2 * index + 2]
            directory = self.directory / f"m{index}"
            directory.mkdir(parents=True)
            place = self.places[index] if index < len(self.places) else Place()
            urls = f"{scheme}://{place.host}:{client}", f"http://{place.host}:{peer}"
            self.members.append(Member(f"m{index}", *urls, directory, place))
        if self.authority:
            self._certificate, self._key = self.authority.issue("server")
        try:
            for member in self.members:
                self.start(member)
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    def start(self, member: Member) -> None:
        """Starts a member on the data that it has, or on none."""
        assert member.process is None
        cluster = ",".join(f"{other.name}={other.peer_url}" for other in self.members)
        command = [
            *member.place.enter, "setpriv", "--pdeathsig", "KILL", program("etcd"), "--name", member.name,
            "--data-dir", str(member.directory / "data"),
            "--listen-client-urls", member.url, "--advertise-client-urls", member.url,
            "--listen-peer-urls", member.peer_url, "--initial-advertise-peer-urls", member.peer_url,
            "--initial-cluster", cluster, *self.options,
        ]  # fmt: skip
        if self.authority:
            command += ["--cert-file", str(self._certificate), "--key-file", str(self._key)]
            if self.ask_for_certificate:
                command += ["--client-cert-auth", "--trusted-ca-file", str(self.authority.ca)]
        with (member.directory / "log").open("ab") as log:
            member.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def restart(self, member: Member) -> None:
        """Starts a member again and waits until it answers."""
        self.start(member)
        self.wait()

    def wait(self) -> None:
        """Until every member that runs says that it has a leader and can read."""
        deadline = time.monotonic() + START_LIMIT
        for member in self.members:
            while member.process is not None and not self._healthy(member):
                if member.process.poll() is not None or time.monotonic() > deadline:
                    tail = (member.directory / "log").read_text(errors="replace")[-2000:]
                    raise AssertionError(f"etcd {member.name} does not answer; its log ends:\n{tail}")
                time.sleep(0.05)

    def restore(self, backup: Path) -> None:
        """Sets a cluster of one back to a snapshot, as an operator does it; its cluster id stays. It must not run."""
        (member,) = self.members
        member.wipe()
        name = "etcdutl" if shutil.which(program("etcdutl")) else "etcdctl"  # etcd 3.6 has it in etcdutl alone
        command = [
            program(name), "snapshot", "restore", str(backup), "--name", member.name,
            "--data-dir", str(member.directory / "data"), "--initial-advertise-peer-urls", member.peer_url,
            "--initial-cluster", f"{member.name}={member.peer_url}",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"ETCDCTL_API": "3"}
        )
        assert done.returncode == 0, done.stderr

    def leader(self) -> Member:
        """The member that leads now; some member must run and have a quorum."""
        endpoints = ",".join(member.url for member in self.members if member.process is not None)
        for status in json.loads(self.ctl("endpoint", "status", "--write-out=json", endpoints=endpoints)):
            if status["Status"]["header"]["member_id"] == status["Status"]["leader"]:
                return next(member for member in self.members if member.url == status["Endpoint"])
        raise AssertionError("no member leads")

    def ctl(self, *arguments: str, endpoints: str | None = None) -> str:
        """What ``etcdctl ARGUMENTS`` prints."""
        command = [program("etcdctl"), "--endpoints", endpoints or ",".join(self.urls)]
        if self.authority:
            certificate, key = self._certificate, self._key
            command += ["--cacert", str(self.authority.ca), "--cert", str(certificate), "--key", str(key)]
        if self.login:
            command += ["--user", self.login]
        result = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, env=os.environ | {"ETCDCTL_API": "3"}
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def ask_for_password(self, user: str, password: str, prefix: str) -> None:
        """Turns authentication on: root (password ``root``), and ``user`` who may use the keys under ``prefix``."""
        for command in (
            ("role", "add", "root"),
            ("user", "add", "root:root"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "network"),
            ("role", "grant-permission", "--prefix=true", "network", "readwrite", prefix),
            ("user", "add", f"{user}:{password}"),
            ("user", "grant-role", user, "network"),
        ):
            self.ctl(*command)
        self.ctl("auth", "enable")
        self.login = "root:root"

    def _healthy(self, member: Member) -> bool:
        context: ssl.SSLContext | None = None
        if self.authority:
            context = ssl.create_default_context(cafile=str(self.authority.ca))
            context.load_cert_chain(self._certificate, self._key)
        try:
            with urllib.request.urlopen(f"{member.url}/health", timeout=2, context=context) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError):
            return False


@contextlib.asynccontextmanager
async def following(stream: AsyncIterator[object]) -> AsyncIterator[asyncio.Queue[object]]:
    """What ``stream`` yields, then the exception that ends it, in a queue that a test takes from with a limit."""
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for item in stream:
                queue.put_nowait(item)
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            queue.put_nowait(error)

    task = asyncio.create_task(pump())
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
