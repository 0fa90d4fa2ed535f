"""etcd's API as the etcd3 package describes it: message classes and services, on protobuf's own implementation in C.

The package's generated modules cannot be imported with it: they build each descriptor by hand, in a way that only the
implementation in pure Python still takes, which is some hundred times slower. But each of them has the ``.proto`` file
that it was generated from, in serialized form (``serialized_pb``); that is data, and read as such here.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_MODULES = ("kv_pb2", "auth_pb2", "rpc_pb2")
"""etcd3's generated modules, each after those that it needs."""

_SERIALIZED = re.compile(r"serialized_pb=_b\(('(?:[^'\\\n]|\\.)*')\)")

_PACKAGE = "etcdserverpb"


def _files() -> list[FileDescriptor]:
    """etcd's ``.proto`` files, in a pool of our own: another copy in this process may have the same names."""
    spec = find_spec("etcd3")  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package etcd3 is missing", name="etcd3")
    directory = Path(spec.submodule_search_locations[0]) / "etcdrpc"
    pool = DescriptorPool()
    files = []
    for module in _MODULES:
        match = _SERIALIZED.search((directory / f"{module}.py").read_text(encoding="ascii"))
        if match is None:
            raise ImportError(f"etcd3's {module} has no description of etcd's API: is it version 0.12.0?", name="etcd3")
        # As bytes, not as a FileDescriptorProto, whose module is 2 MB that nothing else here needs.
        files.append(pool.AddSerializedFile(ast.literal_eval(match[1]).encode("latin-1")))
    return files


_FILES = _files()

messages = SimpleNamespace(
    **{
        name: GetMessageClass(message)
        for file in _FILES
        if file.package == _PACKAGE
        for name, message in file.message_types_by_name.items()
    }
)
"""The classes of all messages, by name: ``messages.RangeRequest``."""


class Service:
    """One of etcd's services on one gRPC channel, a callable for each of its methods.

    Args:
        channel: of ``grpc.aio``.
        name: ``KV``, ``Lease``, ``Watch`` or ``Auth``.
    """

    def __init__(self, channel: Any, name: str) -> None:
        for method in _METHODS[name]:
            kind = f"{_arity(method.client_streaming)}_{_arity(method.server_streaming)}"
            call = getattr(channel, kind)(
                f"/{_PACKAGE}.{name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"etcd3 knows no method {name} of this service")


_METHODS: dict[str, list[MethodDescriptor]] = {
    name: list(service.methods) for file in _FILES for name, service in file.services_by_name.items()
}


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
