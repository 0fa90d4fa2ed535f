"""How kubectl finds an API server: a kubeconfig with its address, its authority and a token."""

from __future__ import annotations

import base64

import msgspec


def render(server: str, authority: bytes, token: str, namespace: str = "default") -> bytes:
    """A kubeconfig with one context, ``overlay``, in JSON, which is YAML too.

    Args:
        server: ``https://127.0.0.1:6443``.
        authority: the certificate, in PEM, that signed the server's.
    """
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "overlay", "cluster": cluster}],
        "users": [{"name": "overlay", "user": {"token": token}}],
        "contexts": [{"name": "overlay", "context": {"cluster": "overlay", "user": "overlay", "namespace": namespace}}],
        "current-context": "overlay",
        "preferences": {},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
