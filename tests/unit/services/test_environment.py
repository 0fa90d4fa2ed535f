"""Services as variables: Kubernetes' own examples (pkg/kubelet/envvars/envvars_test.go), and Docker's links."""

from __future__ import annotations

from typing import Any

from overlay.services import facts_of
from overlay.services.environment import variables
from overlay.services.facts import Service


def service(name: str, address: str, *ports: dict[str, Any], namespace: str = "test", **spec: Any) -> Service:
    return facts_of.service(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": list(ports), **spec},
        }
    )


def test_it_is_as_kubernetes_has_it_with_links_names() -> None:
    services = [
        service("foo-bar", "1.2.3.4", {"port": 8080, "protocol": "TCP"}),
        service(
            "abc-123", "5.6.7.8",
            {"name": "u-d-p", "port": 8081, "protocol": "UDP"}, {"name": "t-c-p", "port": 8081, "protocol": "TCP"},
        ),
        service("svrc-clusterip-none", "None", {"port": 8082}),
        service("name", "", {"port": 80}, type="ExternalName"),
        service("elsewhere", "9.9.9.9", {"port": 80}, namespace="other"),
    ]  # fmt: skip
    assert variables(services, "test") == {
        "ABC_123_SERVICE_HOST": "5.6.7.8",
        "ABC_123_SERVICE_PORT": "8081",
        "ABC_123_SERVICE_PORT_U_D_P": "8081",
        "ABC_123_SERVICE_PORT_T_C_P": "8081",
        "ABC_123_NAME": "/test/abc-123",
        "ABC_123_PORT": "udp://5.6.7.8:8081",
        "ABC_123_PORT_8081_UDP": "udp://5.6.7.8:8081",
        "ABC_123_PORT_8081_UDP_PROTO": "udp",
        "ABC_123_PORT_8081_UDP_PORT": "8081",
        "ABC_123_PORT_8081_UDP_ADDR": "5.6.7.8",
        "ABC_123_PORT_8081_TCP": "tcp://5.6.7.8:8081",
        "ABC_123_PORT_8081_TCP_PROTO": "tcp",
        "ABC_123_PORT_8081_TCP_PORT": "8081",
        "ABC_123_PORT_8081_TCP_ADDR": "5.6.7.8",
        "FOO_BAR_SERVICE_HOST": "1.2.3.4",
        "FOO_BAR_SERVICE_PORT": "8080",
        "FOO_BAR_NAME": "/test/foo-bar",
        "FOO_BAR_PORT": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP_PROTO": "tcp",
        "FOO_BAR_PORT_8080_TCP_PORT": "8080",
        "FOO_BAR_PORT_8080_TCP_ADDR": "1.2.3.4",
    }


def test_every_namespace_is_told_of_the_api_unless_it_has_a_service_of_that_name() -> None:
    api = service("kubernetes", "10.96.0.1", {"name": "https", "port": 443}, namespace="default")
    own = service("kubernetes", "10.96.0.7", {"port": 80})
    assert variables([api], "test")["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert variables([api], "default")["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    for both in ([api, own], [own, api]):
        assert variables(both, "test")["KUBERNETES_SERVICE_HOST"] == "10.96.0.7"
