"""What an API server keeps on this machine: its certificate and tokens, and the kubeconfigs that it hands out."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from overlay.api import certificates, kubeconfig
from overlay.api.auth import Tokens
from overlay.api.certificates import Certificates
from overlay.errors import FileError

GROUP = "overlay"
"""Who may read the kubeconfigs, besides the user that the server runs as."""

RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server proves itself with, and what its clients do."""

    certificates: Certificates
    tokens: Tokens

    @classmethod
    def new(cls) -> Identity:
        """A new authority, certificate and tokens."""
        return cls(certificates.make(datetime.now(UTC)), Tokens.new())

    def tls(self) -> ssl.SSLContext:
        """A server's side of TLS. The key is in a file of mode 0600 for a moment, for OpenSSL takes files alone."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.NamedTemporaryFile(dir=_memory()) as chain:
            chain.write(self.certificates.key + self.certificates.certificate)
            chain.flush()
            context.load_cert_chain(chain.name)
        return context


def kept(folder: Path) -> Identity:
    """The identity in ``folder``, made anew where there is none, or none that lasts, or that only some clients take.
    Raises FileError."""
    file = folder / "identity.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError, ValueError, msgspec.MsgspecError):
            identity = msgspec.json.decode(file.read_bytes(), type=Identity)
            certificate = identity.certificates.certificate
            lasts = certificates.expires(certificate) - RENEW_BEFORE > datetime.now(UTC)
            if lasts and certificates.is_by_the_letter(certificate):
                return identity
        identity = Identity.new()
        _write(file, msgspec.json.encode(identity), 0o600)
    except OSError as error:
        raise FileError(error.strerror or str(error), about=str(error.filename or file)) from None
    return identity


def publish(identity: Identity, port: int, file: Path) -> tuple[Path, Path]:
    """Writes a kubeconfig that may write to ``file``, and one that may read beside it, both 0640. Raises FileError.

    They belong to the group ``overlay`` where there is one and this process may give them to it.
    """
    reading = file.with_name(f"{file.name}-readonly")
    server = f"https://127.0.0.1:{port}"
    try:
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        for path, token in ((file, identity.tokens.write), (reading, identity.tokens.read)):
            _write(path, kubeconfig.render(server, identity.certificates.authority, token), 0o640)
            with suppress(LookupError, PermissionError):
                shutil.chown(path, group=GROUP)
    except OSError as error:
        raise FileError(error.strerror or str(error), about=str(error.filename or file)) from None
    return file, reading


@contextmanager
def passing() -> Iterator[Path]:
    """A folder of mode 0700 that lives as long as the context, in memory where that is possible."""
    with tempfile.TemporaryDirectory(prefix="overlay-kubectl-", dir=_memory(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _memory() -> str | None:
    candidates = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm")
    return next((each for each in candidates if each and os.access(each, os.W_OK)), None)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Never readable for more than it shall be, and never half written."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
