"""``overlay env`` on the real etcd."""

from __future__ import annotations

import json
import uuid

import pytest

from overlay.cli.main import run
from tests.support.etcd import Etcd

pytestmark = pytest.mark.etcd


def test_a_namespaces_services_are_variables(server: Etcd, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = f"/services/{uuid.uuid4().hex}"
    for namespace, name, address in (
        ("shop", "redis", "10.96.0.11"), ("default", "kubernetes", "10.96.0.1"), ("default", "web", "10.96.0.3"),
    ):  # fmt: skip
        document = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]},
        }
        server.ctl("put", f"{prefix}/objects/services/{namespace}/{name}", json.dumps(document))
    server.ctl("put", f"{prefix}/objects/services/shop/broken", "{")
    flags = ["--etcd-endpoints", ",".join(server.urls), "--services-prefix", prefix]
    assert run(["env", "-n", "shop", *flags]) == 0
    said = capsys.readouterr()
    assert "REDIS_SERVICE_HOST=10.96.0.11" in said.out.splitlines()
    assert "REDIS_PORT_80_TCP_ADDR=10.96.0.11" in said.out.splitlines()
    assert "KUBERNETES_SERVICE_HOST=10.96.0.1" in said.out.splitlines()
    assert "WEB_" not in said.out
    assert "shop/broken" in said.err
    assert run(["env", "-n", "Shop", *flags]) == 2
