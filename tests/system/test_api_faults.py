"""etcd fails in every way under ``overlay api`` and a kubectl that watches: what is told is so, or nothing is.

kubectl get svc -w ──HTTPS──▶ overlay api ──▶ etcd: killed, a member of three lost, compacted, restored from a backup
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import ApiProcess, api_process
from tests.support.etcd import Etcd, do_without
from tests.support.systemd import wait_until

pytestmark = pytest.mark.etcd

LIMIT = 120.0


@pytest.fixture(autouse=True)
def needs_kubectl() -> None:
    if shutil.which("kubectl") is None:
        do_without("kubectl (package kubernetes-client, from Debian 13 on kubectl)")


@dataclass
class Watch:
    """A kubectl that goes on, and what it has printed."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def until(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self.lines), LIMIT, f"{text!r} among {self.lines}")


@contextmanager
def watching(api: ApiProcess, *arguments: str) -> Iterator[Watch]:
    process = subprocess.Popen(
        api.kubectl("get", *arguments, "-w", "--no-headers"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    watch, out = Watch(process), process.stdout
    reader = threading.Thread(target=lambda: watch.lines.extend(iter(out.readline, "")), daemon=True)
    reader.start()
    try:
        yield watch
    finally:
        process.kill()
        process.wait()
        reader.join(LIMIT)
        out.close()


def kubectl(api: ApiProcess, *arguments: str, given: Any = None) -> subprocess.CompletedProcess[str]:
    text = None if given is None else json.dumps(given)
    return subprocess.run(
        api.kubectl(*arguments), input=text, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def make(api: ApiProcess, name: str) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
               "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}  # fmt: skip
    done = kubectl(api, "create", "-f", "-", given=service)
    assert done.returncode == 0, done


def put_pod(etcd: Etcd, address: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p-{address[-1]}", "uid": address,
                                                          "namespace": "default", "labels": {"app": "web"}},
           "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
           "status": {"phase": "Running", "podIP": address,
                      "conditions": [{"type": "Ready", "status": "True"}]}}  # fmt: skip
    etcd.ctl("put", f"/overlay/pods/n1/{address}", json.dumps(pod))


def names(api: ApiProcess) -> set[str]:
    done = kubectl(api, "get", "svc", "-o", "name")
    assert done.returncode == 0, done
    return set(done.stdout.replace("service/", "").split())


def endpoints(api: ApiProcess, name: str) -> set[str]:
    done = kubectl(api, "get", "endpoints", name, "-o", "jsonpath={.subsets[*].addresses[*].ip}")
    assert done.returncode == 0, done
    return set(done.stdout.split())


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def test_etcd_killed_and_back(tmp_path: Path) -> None:
    with Etcd(tmp_path / "etcd") as etcd, api_process(etcd.urls[0], tmp_path) as api:
        make(api, "first")
        put_pod(etcd, "10.0.0.1")
        with watching(api, "svc") as services, watching(api, "endpoints") as computed:
            services.until("first")
            computed.until("10.0.0.1:80")
            (member,) = etcd.members
            member.kill()
            for command in (("get", "svc"), ("get", "endpoints", "first"), ("delete", "svc", "first")):
                done = kubectl(api, *command, "--request-timeout=20s")
                assert done.returncode == 1, done
                assert "etcd" in done.stderr, done
                assert "Error from server" in done.stderr, done
            etcd.restart(member)
            etcd.wait()
            wait_until(lambda: kubectl(api, "get", "svc").returncode == 0, LIMIT, "an API that answers")
            put_pod(etcd, "10.0.0.2")
            make(api, "second")
            services.until("second")
            computed.until("10.0.0.2:80")
            assert endpoints(api, "first") == {"10.0.0.1", "10.0.0.2"}
            assert services.process.poll() is None


def test_a_member_of_three_lost(tmp_path: Path) -> None:
    with Etcd(tmp_path / "etcd", size=3) as etcd, api_process(",".join(etcd.urls), tmp_path) as api:
        make(api, "first")
        with watching(api, "svc") as services:
            services.until("first")
            etcd.leader().kill()
            wait_until(lambda: kubectl(api, "get", "svc").returncode == 0, LIMIT, "an API that answers")
            make(api, "second")
            services.until("second")
            assert services.process.poll() is None
            assert names(api) == {"first", "second"}


def test_compacted_while_nobody_looked(tmp_path: Path) -> None:
    """The API stands still, and what happens meanwhile is history when it goes on: watchers hear what came of it."""
    with Etcd(tmp_path / "etcd") as etcd, api_process(etcd.urls[0], tmp_path) as api:
        make(api, "first")
        put_pod(etcd, "10.0.0.1")
        old = json.loads(kubectl(api, "get", "svc", "-o", "json").stdout)["items"][0]["metadata"]["resourceVersion"]
        with watching(api, "svc") as services, watching(api, "endpoints") as computed:
            services.until("first")
            computed.until("10.0.0.1:80")
            api.process.send_signal(signal.SIGSTOP)
            try:
                (member,) = etcd.members
                member.kill()
                etcd.restart(member)
                etcd.wait()
                for address in ("10.0.0.2", "10.0.0.3"):
                    put_pod(etcd, address)
                etcd.ctl("del", "/overlay/pods/n1/10.0.0.1")
                revision = json.loads(etcd.ctl("get", "x", "--write-out=json"))["header"]["revision"]
                etcd.ctl("compact", str(revision))
            finally:
                api.process.send_signal(signal.SIGCONT)
            computed.until("10.0.0.2:80,10.0.0.3:80")
            make(api, "second")
            services.until("second")
        assert endpoints(api, "first") == {"10.0.0.2", "10.0.0.3"}
        path = f"/api/v1/services?watch=1&timeoutSeconds=5&resourceVersion={old}"
        told = kubectl(api, "get", "--raw", path).stdout
        assert [json.loads(line)["object"]["metadata"]["name"] for line in told.splitlines()] == ["second"]
        with api_process(etcd.urls[0], folder(tmp_path, "fresh")) as fresh:  # which has not heard of what was compacted
            gone = kubectl(fresh, "get", "--raw", path)
            assert "410" in gone.stdout or "too old resource version" in gone.stderr, gone


def test_restored_from_a_backup(tmp_path: Path) -> None:
    """What was made since is gone, and nobody goes on as if it were there."""
    backup = tmp_path / "backup.db"
    with Etcd(tmp_path / "etcd") as etcd, api_process(etcd.urls[0], tmp_path) as api:
        make(api, "first")
        put_pod(etcd, "10.0.0.1")
        etcd.ctl("snapshot", "save", str(backup))
        make(api, "since")
        put_pod(etcd, "10.0.0.2")
        with watching(api, "svc") as services:
            services.until("since")
            assert endpoints(api, "first") == {"10.0.0.1", "10.0.0.2"}
            (member,) = etcd.members
            member.kill()
            etcd.restore(backup)
            etcd.restart(member)
            etcd.wait()
            wait_until(lambda: kubectl(api, "get", "svc").returncode == 0, LIMIT, "an API that answers")
            assert names(api) == {"first"}
            assert endpoints(api, "first") == {"10.0.0.1"}
            wait_until(lambda: services.process.poll() is not None, LIMIT, "the end of a watch that is of no use")
            services.until("list again")
        make(api, "since")
        assert names(api) == {"first", "since"}
