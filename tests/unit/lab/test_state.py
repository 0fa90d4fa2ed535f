"""What a lab keeps on disk and in the process table; no root, no namespace."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from overlay.errors import LabError
from overlay.lab.process import Process, poll
from overlay.lab.state import StateDirectory
from overlay.lab.topology import LabSpec

SPEC = LabSpec(name="x", nodes=2)


def spawn(log: Path, *argv: str) -> Process:
    return Process.spawn(argv, namespace=None, log=log)


class TestStateDirectory:
    def test_claim_then_load(self, tmp_path: Path) -> None:
        state = StateDirectory(tmp_path / "a" / "x")
        owner = Process.current()
        state.claim(SPEC, owner)
        assert state.load() == (SPEC, owner)

    def test_second_claim_is_refused(self, tmp_path: Path) -> None:
        state = StateDirectory(tmp_path)
        state.claim(SPEC, None)
        with pytest.raises(LabError, match="there already; overlay lab down --name x"):
            state.claim(SPEC, None)

    def test_directory_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("")
        with pytest.raises(LabError, match="not empty"):
            StateDirectory(tmp_path).claim(SPEC, None)
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]

    def test_of_many_at_once_one_gets_it(self, tmp_path: Path) -> None:
        state, wins = StateDirectory(tmp_path / "x"), []

        def claim() -> None:
            try:
                state.claim(SPEC, None)
                wins.append(1)
            except LabError:
                pass

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1

    @pytest.mark.parametrize("text", ["", "{", '{"spec": {}}', '{"spec": {}, "owner": null}'])
    def test_description_cut_short_by_a_crash_is_a_lab_error(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "lab.json").write_text(text)
        with pytest.raises(LabError):
            StateDirectory(tmp_path).load()

    def test_removed_is_what_is_a_labs_or_empty(self, tmp_path: Path) -> None:
        state = StateDirectory(tmp_path / "x")
        assert not state.remove()
        state.path.mkdir()
        assert state.remove()
        state.claim(SPEC, None)
        state.machine("n1").log("agent").write_text("words")
        assert state.remove()
        state.path.mkdir()
        (state.path / "precious").write_text("")
        assert not state.remove()
        assert (state.path / "precious").exists()

    def test_no_lab(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="there is none; overlay lab up"):
            StateDirectory(tmp_path / "x").load()

    def test_machines_remember_their_process_and_their_last_words(self, tmp_path: Path) -> None:
        files = StateDirectory(tmp_path).machine("n1")
        assert (files.process, files.last_words("agent")) == (None, "")
        process = Process.current()
        assert process is not None
        files.remember(process)
        files.log("agent").write_text("one\ntwo\n")
        assert files.process == process
        assert files.last_words("agent") == "one / two"


class TestProcess:
    def test_output_and_exit_status(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("before\n")
        assert spawn(log, "sh", "-c", "echo out; echo err >&2; exit 3").wait(10) == 3
        assert log.read_text() == "before\nout\nerr\n"

    def test_stop_is_sigterm(self, tmp_path: Path) -> None:
        process = spawn(tmp_path / "log", "sleep", "60")
        assert process.alive
        assert process.stop() == -signal.SIGTERM
        assert not process.alive

    def test_stop_wakes_what_is_frozen(self, tmp_path: Path) -> None:
        process = spawn(tmp_path / "log", "sleep", "60")
        process.signal(signal.SIGSTOP)
        assert poll(lambda: process.stopped, 10)
        assert process.stop() == -signal.SIGTERM

    def test_what_ignores_sigterm_is_killed(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        process = spawn(log, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
        assert poll(lambda: "ready" in log.read_text(), 10)
        assert process.stop(timeout=0.2) == -signal.SIGKILL

    def test_a_later_process_with_the_same_id_is_another(self, tmp_path: Path) -> None:
        process = spawn(tmp_path / "log", "sleep", "60")
        impostor = Process(process.pid, process.start_time - 1)
        assert not impostor.alive
        impostor.signal(signal.SIGKILL)
        assert process.alive
        process.kill()

    def test_missing_program(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="nosuchprogram: is not installed"):
            spawn(tmp_path / "log", "nosuchprogram")

    def test_wait_gives_up(self, tmp_path: Path) -> None:
        process = spawn(tmp_path / "log", "sleep", "60")
        with pytest.raises(LabError, match="did not end"):
            process.wait(0.05)
        process.kill()
