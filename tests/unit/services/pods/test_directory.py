"""Pods that somebody else makes, as files."""

from __future__ import annotations

import asyncio
import json
import os
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlay.services.objects.document import condition
from overlay.services.pods.directory import MAX_BYTES, MAX_FILES, Directory, complete
from overlay.services.pods.mapping import Here

HERE = Here("n1", IPv4Address("172.31.0.1"))
LATER = 60.0
"""Seconds: when files have settled."""


def write(path: Path, **document: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document))
    part.rename(path)


def followed(path: Path) -> tuple[Directory, list[int]]:
    told: list[int] = []
    return Directory(path, lambda: told.append(1)), told


def test_a_pod_is_its_file(tmp_path: Path) -> None:
    directory, told = followed(tmp_path / "pods.d")
    directory.look(time.time())
    assert (directory.pods, told) == ({}, []), "the directory need not be there"
    (tmp_path / "pods.d").mkdir()
    file = tmp_path / "pods.d" / "abc.json"
    write(file, metadata={"name": "db-0", "labels": {"app": "db"}}, status={"podIP": "10.0.5.7"})
    directory.look(time.time())
    assert len(told) == 1
    pod = complete("abc", directory.pods["abc"], HERE)
    assert pod["kind"] == "Pod"
    assert pod["metadata"]["namespace"] == "default"
    assert pod["spec"]["nodeName"] == "n1"
    assert pod["status"]["podIPs"] == [{"ip": "10.0.5.7"}]
    assert pod["status"]["hostIP"] == "172.31.0.1"
    assert condition(pod, "Ready")
    directory.look(time.time() + LATER)
    assert len(told) == 1
    write(file, metadata={"name": "db-0"}, status={"conditions": [{"type": "Ready", "status": "False"}]})
    directory.look(time.time() + LATER)
    assert not condition(complete("abc", directory.pods["abc"], HERE), "Ready")
    file.unlink()
    directory.look(time.time())
    assert (directory.pods, len(told)) == ({}, 3)


def test_a_file_that_changes_within_one_tick_of_the_clock_is_read_again(tmp_path: Path) -> None:
    directory, _ = followed(tmp_path)
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"metadata": {"name": "a"}}))
    moment = time.time()
    os.utime(file, (moment, moment))
    directory.look(moment)
    file.write_text(json.dumps({"metadata": {"name": "b"}}))
    os.utime(file, (moment, moment))
    directory.look(moment + 0.5)
    assert directory.pods["a"]["metadata"]["name"] == "b"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "", "is no JSON"),
        ("a.json", "[]", "no object"),
        ("a.json", '{"metadata":{}}', "no metadata.name"),
        ("a.json", '{"metadata":{"name":"A B"}}', "no DNS name"),
        ("a.json", '{"metadata":{"name":"a","namespace":"A"}}', "no DNS label"),
        ("a.json", '{"metadata":{"name":"a","namespace":7}}', "no DNS label"),
        ("a b.json", '{"metadata":{"name":"a"}}', "is no id"),
        ("a.json", " " * (MAX_BYTES + 1), f"has more than {MAX_BYTES} bytes"),
    ],
)
def test_what_is_no_pod_is_told_and_the_others_are_taken(tmp_path: Path, name: str, content: str, told: str) -> None:
    directory, _ = followed(tmp_path)
    (tmp_path / name).write_text(content)
    write(tmp_path / "good.json", metadata={"name": "good"})
    directory.look(time.time())
    assert list(directory.pods) == ["good"]
    (fault,) = directory.faults
    assert told in fault
    assert str(tmp_path / name) in fault


def test_others_files_are_none_of_ours(tmp_path: Path) -> None:
    directory, _ = followed(tmp_path)
    for name in (".hidden.json", "a.json.part", "README"):
        (tmp_path / name).write_text("{")
    (tmp_path / "d.json").mkdir()
    (tmp_path / "l.json").symlink_to(tmp_path / "nowhere")
    directory.look(time.time())
    assert not directory.pods
    assert all("d.json" in fault or "l.json" in fault for fault in directory.faults)


def test_their_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FILES <= 10_000
    monkeypatch.setattr("overlay.services.pods.directory.MAX_FILES", 3)
    for number in range(6):
        write(tmp_path / f"p{number}.json", metadata={"name": "p"})
    directory, _ = followed(tmp_path)
    directory.look(time.time())
    assert len(directory.pods) == 3


async def test_it_is_followed_as_it_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "pods.d"
    told = asyncio.Event()
    directory = Directory(path, told.set)

    async def until(names: set[str]) -> None:
        async with asyncio.timeout(30):
            while set(directory.pods) != names:
                await told.wait()
                told.clear()

    following = asyncio.create_task(directory.run())
    try:
        await asyncio.sleep(0)
        path.mkdir()
        write(path / "a.json", metadata={"name": "a"})
        await until({"a"})
        write(path / "b.json", metadata={"name": "b"})
        await until({"a", "b"})
        (path / "a.json").unlink()
        await until({"b"})
        (path / "b.json").unlink()
        path.rmdir()
        await until(set())
    finally:
        following.cancel()


async def test_a_file_that_is_written_in_its_place_is_read_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.services.pods.directory.READ_SECONDS", 0.2)
    old = time.time() - 1000
    file = tmp_path / "a.json"
    write(file, metadata={"name": "a"})
    os.utime(file, (old, old))
    os.utime(tmp_path, (old, old))
    told = asyncio.Event()
    directory = Directory(tmp_path, told.set)
    following = asyncio.create_task(directory.run())
    try:
        async with asyncio.timeout(30):
            await told.wait()
            told.clear()
            file.write_text(json.dumps({"metadata": {"name": "changed"}}))
            while directory.pods["a"]["metadata"]["name"] != "changed":
                await told.wait()
                told.clear()
    finally:
        following.cancel()
