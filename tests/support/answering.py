"""Servers that tell who they are and whom they see, and a client that asks them: ``python -m tests.support.answering``.

``serve NAME PORT… echo:PORT`` answers every connection (TCP) and datagram (UDP) at each port with one line of JSON, the
server's name and port and the client's address. ``ask`` reads a question a line, and prints its answers as a line; a
question is ``{"protocol", "address", "port", "count", "patience", "source_port"}``, an answer what the server said, or
"refused", "silence", "connected, then silence", or the error's name. ``hold ADDRESS PORT`` keeps one connection to such
a server's ``echo:PORT`` busy until a line comes in, and prints what became of it: how often it was answered, and how it
failed.
"""

from __future__ import annotations

import contextlib
import json
import select
import selectors
import socket
import sys
import threading
import time
from typing import Any

_AGAIN_SECONDS = 1.1
"""From one datagram to the next: a host answers one client with one ICMP error a second, once it has said a few."""


_PAUSE_SECONDS = 0.05
"""From one answer on a connection that is held to the next question."""


def serve(name: str, ports: list[int], echoes: list[int]) -> None:
    waiting = selectors.DefaultSelector()
    for port in echoes:
        waiting.register(socket.create_server(("", port)), selectors.EVENT_READ, (None, port))
    for port in ports:
        tcp = socket.create_server(("", port), backlog=128)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("", port))
        waiting.register(tcp, selectors.EVENT_READ, (False, port))
        waiting.register(udp, selectors.EVENT_READ, (True, port))
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            sock, (is_udp, port) = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            if is_udp is None:
                threading.Thread(target=_echo, args=(sock.accept()[0],), daemon=True).start()
            elif is_udp:
                _, client = sock.recvfrom(100)
                sock.sendto(_answer(name, port, client), client)
            else:
                connection, client = sock.accept()
                with connection:
                    connection.sendall(_answer(name, port, client))


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(100):
            connection.sendall(data)


def hold(address: str, port: int) -> None:
    answered, fault = 0, ""
    try:
        with socket.create_connection((address, port), 10.0) as connection:
            print("held", flush=True)
            while not select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
                connection.sendall(b"?")
                if not connection.recv(100):
                    raise ConnectionError("ended by the other side")
                answered += 1
    except OSError as error:
        fault = repr(error)
    print(json.dumps({"answered": answered, "fault": fault}), flush=True)


def _answer(name: str, port: int, client: tuple[str, int]) -> bytes:
    return json.dumps({"name": name, "port": port, "client": client[0]}).encode()


def ask() -> None:
    for line in sys.stdin:
        print(json.dumps(_asked(**json.loads(line))), flush=True)


def _asked(
    protocol: str, address: str, port: int, count: int = 1, patience: float = 10.0, source_port: int = 0
) -> list[Any]:
    once = _by_udp if protocol == "UDP" else _by_tcp
    return [once(address, port, patience, source_port) for _ in range(count)]


def _by_tcp(address: str, port: int, patience: float, source_port: int) -> Any:
    source = ("", source_port) if source_port else None
    try:
        connection = socket.create_connection((address, port), patience, source_address=source)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return type(error).__name__
    try:
        with connection:
            return json.loads(connection.makefile("rb").read())
    except TimeoutError:
        return "connected, then silence"
    except OSError as error:
        return type(error).__name__
    except ValueError:
        return "cut off"


def _by_udp(address: str, port: int, patience: float, source_port: int) -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind(("", source_port))
        udp.connect((address, port))
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            udp.settimeout(min(left, _AGAIN_SECONDS))
            with contextlib.suppress(PermissionError):  # what is refused on its way out is not sent; the answer follows
                udp.send(b"?")
            try:
                return json.loads(udp.recv(1000))
            except ConnectionRefusedError:
                return "refused"
            except TimeoutError:
                pass
        return "silence"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name, *ports]:
            echoes = [int(each.removeprefix("echo:")) for each in ports if each.startswith("echo:")]
            serve(name, [int(each) for each in ports if not each.startswith("echo:")], echoes)
        case ["hold", address, port]:
            hold(address, int(port))
        case ["ask"]:
            ask()
