"""Python's own modules without OpenSSL, for a daemon that lives long and speaks TLS by gRPC, which brings its own.

asyncio, http.client and hashlib take OpenSSL where they find it: some 6 MB that such a daemon never uses. So they are
imported while there is none. Whoever else imports ``ssl`` gets it, loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import cast

_TAKERS = ("asyncio", "hashlib", "http.client")
_OPENSSL = ("ssl", "_hashlib")
_PYTHONS_OWN_HASHES = ("_sha256", "_sha2")
"""Of Python 3.11, and from 3.12 on; some distributions build neither, and then hashlib has OpenSSL's or none."""


def import_without_openssl() -> None:
    """Imports what takes OpenSSL and does without; what has been imported already stays as it is."""
    absent = [name for name in _OPENSSL if name not in sys.modules]
    if not any(map(find_spec, _PYTHONS_OWN_HASHES)):
        return
    for name in absent:
        sys.modules[name] = cast(ModuleType, None)  # "import" raises ImportError then
    try:
        for taker in _TAKERS:
            importlib.import_module(taker)
    finally:
        for name in absent:
            del sys.modules[name]
    if "ssl" in absent:
        sys.modules["ssl"] = _WhenUsed("ssl")


class _WhenUsed(ModuleType):
    """Stands for a module until something of it is asked for. (importlib's LazyLoader loads it at the next import.)"""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # what the import system looks for, and a module need not have
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        vars(self).update(vars(importlib.import_module(self.__name__)))
        return getattr(self, name)
