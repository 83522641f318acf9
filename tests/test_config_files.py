"""Files that appear whole, and folders that one process at a time writes into."""

import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from resnets.config import ConfigError, hold_folder, new_folder, whole_file
from resnets.config.files import LOCK, hold_file


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("resnets.config.files.BRIEFLY", 0.1)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileNotFoundError), whole_file(path) as temporary:
        temporary.write_text("half") and (tmp_path / "none").read_text()
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def append(path: Path, text: str) -> None:
    for _ in range(50):
        with whole_file(path) as temporary:
            temporary.write_text(text)
            time.sleep(0.0002)
            with temporary.open("a") as file:
                file.write(text)


def test_two_processes_at_one_file_do_not_mix(tmp_path):
    path, context = tmp_path / "file", get_context("fork")
    workers = [context.Process(target=append, args=(path, text)) for text in ("one", "another")]
    for each in workers:
        each.start()
    seen = set()
    while any(each.is_alive() for each in workers):
        if path.exists():
            seen.add(path.read_text())
    assert [each.exitcode for each in workers] == [0, 0]
    assert seen <= {"oneone", "anotheranother"}
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_stays_busy_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("resnets.config.files.PATIENCE", 0.1)
    with whole_file(tmp_path / "file") as temporary:
        temporary.write_text("mine")
        with pytest.raises(BlockingIOError), whole_file(tmp_path / "file"):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_has_one_writer_and_says_who(tmp_path):
    out = tmp_path / "deep" / "run"
    with hold_folder(out):
        (out / "result").write_text("1")
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"), hold_folder(out):
            pass
        (out / LOCK).write_text("rubbish")
        with pytest.raises(ConfigError, match="another process"), hold_folder(out):
            pass
    assert [each.name for each in out.iterdir()] == ["result"]
    with hold_folder(out):  # free again
        pass
    with pytest.raises(ConfigError), hold_folder(out / "result"):
        pass


def test_a_busy_file_inside_is_not_taken_for_a_busy_folder(tmp_path):
    with pytest.raises(BlockingIOError), hold_folder(tmp_path / "run"):
        raise BlockingIOError


def test_an_empty_folder_is_removed_again(tmp_path):
    with pytest.raises(RuntimeError), hold_folder(tmp_path / "runs" / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_lets_go(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom resnets.config import hold_folder\n"
        "with hold_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {holder.pid} on"), hold_folder(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with hold_folder(tmp_path):
        pass


def take(parent: Path, count: int) -> list[str]:
    return [new_folder(parent, "digits").name for _ in range(count)]


def test_of_processes_that_race_each_gets_folders_of_its_own(tmp_path):
    with get_context("fork").Pool(4) as pool:
        found = pool.starmap(take, [(tmp_path / "runs", 25)] * 4)
    names = [name for each in found for name in each]
    assert len(set(names)) == 100
    assert {f"digits-{number}" for number in range(1, 101)} == set(names)


def test_waiting_for_a_lock(tmp_path):
    first, second = (hold_file(tmp_path / "lock", 0.1) for _ in range(2))
    with first, pytest.raises(BlockingIOError), second:
        pass
