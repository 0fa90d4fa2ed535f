"""Endpoints, credentials and TLS files: what is wrong with them is said before anything is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from overlay.errors import TlsFilesError, UsageError
from overlay.store.etcd.settings import DEFAULT_ENDPOINTS, Endpoint, EtcdSettings, TlsFiles
from tests.support.etcd import Authority


@pytest.mark.parametrize(
    ("text", "target", "tls"),
    [
        ("http://127.0.0.1:2379", "127.0.0.1:2379", False),
        (" https://etcd-1.example.net:4001/ ", "etcd-1.example.net:4001", True),
        ("https://etcd", "etcd:2379", True),
        ("http://[fd00::1]:2379", "[fd00::1]:2379", False),
        ("10.0.0.1:2379", "10.0.0.1:2379", False),
        ("localhost:2379", "localhost:2379", False),
        ("etcd", "etcd:2379", False),
    ],
)
def test_endpoint(text: str, target: str, tls: bool) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.target, endpoint.tls) == (target, tls)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("ftp://127.0.0.1:2379", "neither http nor https"),
        ("http://", "no host"),
        ("", "no host"),
        ("http://a b:1", "no host"),
        ("http://127.0.0.1:port", "not a URL"),
        ("http://127.0.0.1:70000", "not a URL"),
        ("http://127.0.0.1:0", "port 0"),
        ("http://[::1:2379", "not a URL"),
        ("http://127.0.0.1:2379/v2/keys", "more than a host and a port"),
        ("http://127.0.0.1:2379?a=b", "more than a host and a port"),
    ],
)
def test_a_wrong_endpoint_is_named_with_what_is_wrong(text: str, cause: str) -> None:
    with pytest.raises(UsageError) as caught:
        EtcdSettings(endpoints=(text,))
    line = str(caught.value)
    assert cause in line
    assert repr(text) in line
    assert "http://HOST:PORT" in line
    assert "\n" not in line


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        EtcdSettings(endpoints=("http://root:s3cret@etcd:2379",))
    assert "s3cret" not in str(caught.value)
    assert "--etcd-password" in str(caught.value)


def test_settings_do_not_show_the_password() -> None:
    assert "s3cret" not in repr(EtcdSettings(username="u", password="s3cret"))


def test_defaults_are_flanneld_s() -> None:
    assert EtcdSettings().endpoints == DEFAULT_ENDPOINTS == ("http://127.0.0.1:4001", "http://127.0.0.1:2379")


def test_an_endpoint_given_twice_is_one() -> None:
    assert len(EtcdSettings(endpoints=("http://a:2379", "a", "http://a:2379/")).members()) == 1


def test_a_bare_endpoint_means_tls_where_there_are_tls_files() -> None:
    assert EtcdSettings(endpoints=("etcd:2379",), cafile="ca.pem").members()[0].tls


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoints": ()}, ["--etcd-endpoints"]),
        ({"certfile": "c.pem"}, ["--etcd-keyfile is missing", "c.pem"]),
        ({"keyfile": "k.pem"}, ["--etcd-certfile is missing", "k.pem"]),
        ({"username": "u"}, ["--etcd-password is missing"]),
        ({"password": "p"}, ["--etcd-username is missing"]),
        ({"cafile": "ca.pem"}, ["http://127.0.0.1:4001", "write https://"]),
        ({"timeout": 0.0}, ["not positive"]),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        EtcdSettings(**settings)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"))


def read(**files: Path) -> TlsFiles:
    return TlsFiles.read(
        EtcdSettings(endpoints=("https://etcd:2379",), **{name: str(path) for name, path in files.items()})  # type: ignore[arg-type]
    )


def test_ca_alone_and_with_a_pair(authority: Authority) -> None:
    certificate, key = authority.issue("client")
    ca = authority.ca.read_bytes()
    assert read(cafile=authority.ca) == TlsFiles(ca, None, None)
    both = read(cafile=authority.ca, certfile=certificate, keyfile=key)
    assert both == TlsFiles(ca, certificate.read_bytes(), key.read_bytes())
    assert "PRIVATE" not in repr(both)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("client")
    _, other_key = authority.issue("other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"],
        check=True,
        capture_output=True,
    )
    for files, words in (
        ({"cafile": tmp_path / "none.pem"}, ["--etcd-cafile", "none.pem", "no such file"]),
        ({"cafile": tmp_path}, ["--etcd-cafile", "is a directory"]),
        ({"cafile": garbage}, ["--etcd-cafile", "garbage.pem", "holds no PEM certificate"]),
        ({"cafile": key}, ["--etcd-cafile", "holds no PEM certificate"]),
        ({"certfile": key, "keyfile": key}, ["--etcd-certfile", "holds no PEM certificate"]),
        ({"certfile": certificate, "keyfile": certificate}, ["--etcd-keyfile", "holds no PEM private key"]),
        ({"certfile": certificate, "keyfile": other_key}, ["not a pair"]),
        ({"certfile": certificate, "keyfile": locked}, ["--etcd-keyfile", "has a passphrase"]),
    ):
        with pytest.raises(TlsFilesError) as caught:
            read(**files)
        for word in words:
            assert word in str(caught.value)


def test_reading_flags_does_not_load_grpc() -> None:
    script = "import sys, overlay.store.etcd.settings; sys.exit('grpc' in sys.modules or 'etcd3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
