"""Atomic writes, and folders that only one process at a time writes into."""

import errno
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from resnets.config import ConfigError
from resnets.utils.files.locks import LOCK, lock_file, lock_folder, lock_path, new_folder
from resnets.utils.files.write import atomic_write
from resnets.weights.folder import write_new_folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("resnets.utils.files.locks.LOCK_TIMEOUT", 0.1)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileNotFoundError), atomic_write(path) as temporary:
        temporary.write_text("half") and (tmp_path / "none").read_text()
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def append(path: Path, text: str) -> None:
    for _ in range(50):
        with atomic_write(path) as temporary:
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
    monkeypatch.setattr("resnets.utils.files.write.WRITE_TIMEOUT", 0.1)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("mine")
        with pytest.raises(BlockingIOError), atomic_write(tmp_path / "file"):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_has_one_writer_and_says_who(tmp_path):
    out = tmp_path / "deep" / "run"
    with lock_folder(out):
        (out / "result").write_text("1")
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"), lock_folder(out):
            pass
        (out / LOCK).write_text("rubbish")
        with pytest.raises(ConfigError, match="another process"), lock_folder(out):
            pass
    assert [each.name for each in out.iterdir()] == ["result"]
    with lock_folder(out):  # free again
        pass
    with pytest.raises(ConfigError), lock_folder(out / "result"):
        pass


def test_a_busy_file_inside_is_not_taken_for_a_busy_folder(tmp_path):
    with pytest.raises(BlockingIOError), lock_folder(tmp_path / "run"):
        raise BlockingIOError


def test_an_empty_folder_is_removed_again(tmp_path):
    with pytest.raises(RuntimeError), lock_folder(tmp_path / "runs" / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_releases_its_lock(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from resnets.utils.files.locks import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {holder.pid} on"), lock_folder(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with lock_folder(tmp_path):
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
    first, second = (lock_file(tmp_path / "lock", 0.1) for _ in range(2))
    with first, pytest.raises(BlockingIOError), second:
        pass


def plant(place: Path, kind: str, victim: Path) -> None:
    """Put at `place` what leads writers to the file `victim`, or what they would wait for."""
    place.parent.mkdir(parents=True, exist_ok=True)
    make = {"link": os.symlink, "hard link": os.link}.get(kind)
    os.mkfifo(place) if make is None else make(victim, place)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_link_in_place_of_a_lock_is_not_written_through(tmp_path, kind):
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    plant(folder / LOCK, kind, victim)
    plant(folder / ".file.tmp", kind, victim)
    plant(folder / ".new.lock", kind, victim)
    with lock_folder(folder), lock_path(folder / "new"), atomic_write(folder / "file") as temporary:
        temporary.write_text("ours")
        assert str(os.getpid()) in (folder / LOCK).read_text()
    assert victim.read_text() == "mine"
    assert (folder / "file").read_text() == "ours"
    assert os.listdir(folder) == ["file"]


def test_a_link_at_the_place_of_a_file_is_replaced(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    with atomic_write(link) as temporary:
        temporary.write_text("ours")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "ours", False)


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, kind in (
        (tmp_path / "folder", IsADirectoryError),
        (tmp_path / "none" / "file", FileNotFoundError),
        (tmp_path / ("x" * 255), OSError),
    ):
        with pytest.raises(kind) as caught, atomic_write(path):
            raise AssertionError("nothing is computed for it")
        assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="No space") as caught, atomic_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError, match="y" * 255) as caught, lock_folder(tmp_path / ("y" * 256)):
        pass
    assert LOCK not in str(caught.value)


def test_a_broken_link_is_not_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "none" / "deeper")
    with pytest.raises(ConfigError), lock_folder(tmp_path / "link"):
        pass
    with pytest.raises(ConfigError):
        write_new_folder(tmp_path / "link", lambda _: None, "link")
    assert not (tmp_path / "none").exists()
