"""Documents out of what clients send, hostile ones too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.api import bodies, protobuf
from overlay.services.objects.status import StatusError


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _body(kind: str, raw: bytes, version: str = "v1") -> bytes:
    return b"k8s\0" + _field(1, _field(1, version.encode()) + _field(2, kind.encode())) + _field(2, raw)


def test_a_service_in_protobuf() -> None:
    meta = _field(1, b"web") + _field(2, b"") + _field(8, b"") + _field(11, _field(1, b"app") + _field(2, b"web"))
    named = (
        _field(1, b"http") + _field(2, b"TCP") + b"\x18\x50" + _field(4, b"\x08\x01" + _field(3, b"web")) + b"\x28\x00"
    )
    plain = _field(1, b"alt") + b"\x18\x51" + _field(4, b"\x08\x00\x10\x90\x3f" + _field(3, b""))
    spec = _field(1, named) + _field(1, plain) + _field(2, _field(1, b"app") + _field(2, b"web")) + b"\x68\x00"
    document = bodies.parse_object(protobuf.CONTENT_TYPE, _body("Service", _field(1, meta) + _field(2, spec)))
    assert document == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "selector": {"app": "web"},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"},
                {"name": "alt", "port": 81, "targetPort": 8080},
            ],
        },
    }


def test_an_ingress_rule_is_inline_in_protobuf() -> None:
    backend = _field(3, b"")
    path = _field(1, b"/") + _field(3, b"Prefix") + _field(2, backend)
    rule = _field(1, b"a.example") + _field(2, _field(1, _field(1, path)))
    body = _body("Ingress", _field(2, _field(3, rule)), "networking.k8s.io/v1")
    (found,) = bodies.parse_object(protobuf.CONTENT_TYPE, body)["spec"]["rules"]
    assert found["host"] == "a.example"
    assert found["http"]["paths"][0]["path"] == "/"


@pytest.mark.parametrize(
    ("content_type", "body", "document"),
    [
        ("", b'{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", b'{"a": 1}', {"a": 1}),
        ("Application/JSON", b"[]", []),
        ("application/yaml", b"a: 1\nb: [x]\n", {"a": 1, "b": ["x"]}),
        ("application/yaml", b"a: 2026-01-01\n", {"a": "2026-01-01"}),
    ],
)
def test_an_object(content_type: str, body: bytes, document: object) -> None:
    assert bodies.parse_object(content_type, body) == document


_LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n"


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"[" * 1_000_000, 400),
        ("application/json", b'{"a":' * 1_000_000, 400),
        ("application/yaml", b"a: [", 400),
        ("application/yaml", b"a: !!python/object/apply:os.system [ls]", 400),
        ("application/yaml", _LAUGHS, 400),
        ("application/yaml", b"[" * 100_000, 400),
        ("application/yaml", b"#" * 300_000, 413),
        ("text/plain", b"{}", 415),
        ("application/apply-patch+yaml", b"{}", 415),
        (protobuf.CONTENT_TYPE, b"", 400),
        (protobuf.CONTENT_TYPE, b"k8s\0", 400),
        (protobuf.CONTENT_TYPE, b"k8s\0\x0a\xff\xff\xff\xff\x7f", 400),
        (protobuf.CONTENT_TYPE, _body("Secret", b""), 400),
        (protobuf.CONTENT_TYPE, _body("Service", b"\xff" * 40), 400),
    ],
)
def test_what_is_no_object(content_type: str, body: bytes, code: int) -> None:
    with pytest.raises(StatusError) as raised:
        bodies.parse_object(content_type, body)
    assert raised.value.code == code


@given(st.binary(max_size=200), st.sampled_from(["Service", "Endpoints", "EndpointSlice", "DeleteOptions"]))
def test_any_bytes_in_protobuf_are_a_document_or_a_bad_request(raw: bytes, kind: str) -> None:
    version = "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1"
    try:
        document = bodies.parse_object(protobuf.CONTENT_TYPE, _body(kind, raw[:120], version))
    except StatusError as error:
        document = error.document()
    assert (document["kind"], document.get("code")) in ((kind, None), ("Status", 400))


@pytest.mark.parametrize("content_type", ["application/json", "application/apply-patch+cbor", ""])
def test_a_patch_of_no_known_kind_is_refused_as_kubectl_expects(content_type: str) -> None:
    with pytest.raises(StatusError) as raised:
        bodies.parse_patch(content_type, b"{}")
    assert raised.value.code == 415
    assert "the body of the request was in an unknown format" in raised.value.message


@pytest.mark.parametrize("body", [b'{"spec": {"type": "ClusterIP"}}', b"spec:\n  type: ClusterIP\n"])
def test_what_is_applied_may_be_json_or_yaml(body: bytes) -> None:
    assert bodies.parse_patch("application/apply-patch+yaml", body)[1] == {"spec": {"type": "ClusterIP"}}


def test_applying_what_is_neither_is_refused() -> None:
    for body in (b"{", b"a: [", _LAUGHS):
        with pytest.raises(StatusError) as raised:
            bodies.parse_patch("application/apply-patch+yaml", body)
        assert raised.value.code == 400
