"""The cache: whole or not at all, made once, and a sentence when it cannot be written."""

import multiprocessing
import time
from pathlib import Path

import pytest

from sim.cache import cache_directory, cached, digest_of
from sim.harness import SimulationError


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "things"


def test_the_environment_chooses_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("SYSTOLITH_CACHE")
    assert cache_directory().name == "systolith"


def test_an_artefact_is_made_once(shelf: Path) -> None:
    calls = []

    def make(place: Path) -> None:
        calls.append(place)
        (place / "file").write_text("content")

    assert cached("things", "abc", make) == cached("things", "abc", make) == shelf / "abc"
    assert (shelf / "abc" / "file").read_text() == "content"
    assert len(calls) == 1
    assert [path.name for path in shelf.iterdir()] == ["abc"]


def test_a_failure_leaves_nothing_and_the_next_try_succeeds(shelf: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").write_text("half")
        raise SimulationError("no")

    def interrupt(place: Path) -> None:
        (place / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(SimulationError, match=r"^no$"):
        cached("things", "abc", fail)
    assert not list(shelf.iterdir())
    with pytest.raises(KeyboardInterrupt):
        cached("things", "abc", interrupt)
    assert not list(shelf.iterdir())
    assert cached("things", "abc", lambda place: None).is_dir()


def test_what_a_killed_process_left_is_cleared_away(shelf: Path) -> None:
    (shelf / ".abc.unfinished").mkdir(parents=True)
    (shelf / ".abc.unfinished" / "half").touch()
    (shelf / ".abc.lock").touch()
    place = cached("things", "abc", lambda place: (place / "whole").touch())
    assert [path.name for path in place.iterdir()] == ["whole"]
    assert [path.name for path in shelf.iterdir()] == ["abc"]


def _want(log: str) -> None:
    def make(place: Path) -> None:
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.3)
        (place / "file").touch()

    assert (cached("things", "abc", make) / "file").exists()


def test_of_many_processes_one_makes_it_and_the_others_wait(tmp_path: Path, shelf: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_want, args=(str(tmp_path / "log"),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert [path.name for path in shelf.iterdir()] == ["abc"]


def test_a_cache_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path / "file"))
    with pytest.raises(SimulationError, match=r"cannot be kept there .*; set SYSTOLITH_CACHE to another directory$"):
        cached("things", "abc", lambda place: None)


def test_digests_tell_where_one_part_ends() -> None:
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"])
    assert digest_of(["ab", b"c"]) == digest_of([b"ab", "c"])
