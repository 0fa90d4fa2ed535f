"""``overlay api`` as a process of its own, for clients that are not kubectl, and for kubectl with its kubeconfig."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

START_LIMIT = 60.0


@dataclass(frozen=True)
class ApiProcess:
    """One that serves.

    Attributes:
        kubeconfig: of those who may write.
    """

    process: subprocess.Popen[bytes]
    kubeconfig: Path

    @property
    def url(self) -> str:
        return str(self._cluster["server"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def authority(self) -> bytes:
        """Its CA's certificate, PEM."""
        return b64decode(self._cluster["certificate-authority-data"])

    @property
    def token(self) -> str:
        return str(self._document["users"][0]["user"]["token"])

    @property
    def resident(self) -> int:
        """Bytes of memory that it has now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("it has no memory")

    def tls(self) -> ssl.SSLContext:
        """A client's side."""
        return ssl.create_default_context(cadata=self.authority.decode())

    def kubectl(self, *arguments: str, program: str = "kubectl") -> list[str]:
        """The command line of a kubectl that goes on from here by itself."""
        cache = self.kubeconfig.parent / "cache"
        return [program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}", *arguments]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """One that may write; as many connections as it wants."""
        connector = aiohttp.TCPConnector(ssl=self.tls(), limit=0)
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(self.url, connector=connector, headers=headers, timeout=timeout) as session:
            yield session

    @property
    def _document(self) -> Any:
        return yaml.safe_load(self.kubeconfig.read_text())

    @property
    def _cluster(self) -> Any:
        return self._document["clusters"][0]["cluster"]


@contextmanager
def api_process(etcd: str, folder: Path, *flags: str) -> Iterator[ApiProcess]:
    """``overlay api`` while the context lasts, its files in ``folder`` and its log in ``folder/api.log``.

    Args:
        etcd: its endpoints, separated by commas.
    """
    kubeconfig = folder / "kubeconfig"
    command = [
        sys.executable, "-m", "overlay", "api", "--etcd-endpoints", etcd, "--port", "0",
        "--api-dir", str(folder / "api"), "--kubeconfig-file", str(kubeconfig), *flags,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    with (folder / "api.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stderr=log, stdout=log, env=environment
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while not kubeconfig.exists():
            assert process.poll() is None, (folder / "api.log").read_text()
            assert time.monotonic() < deadline, "no API in time"
            time.sleep(0.05)
        yield ApiProcess(process, kubeconfig)
    finally:
        process.terminate()
        try:
            process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
