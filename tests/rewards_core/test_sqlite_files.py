"""Locks beside files, files taken away beneath their users, and file systems that cannot be trusted."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards_core.errors import StoreError
from rewards_core.sqlite import files
from rewards_core.sqlite.files import FileLock, OpenFiles, check_shareable, file_system, follow_links
from tests.rewards_core.sqlite_kit import beside, refused


@pytest.fixture
def lock(path: Path) -> Iterator[FileLock]:
    lock = FileLock(path)
    yield lock
    lock.release()


@pytest.fixture
def second(path: Path) -> Iterator[FileLock]:
    lock = FileLock(path)
    yield lock
    lock.release()


# locks


def test_a_lock_is_shared_by_many_or_held_by_one(lock: FileLock, second: FileLock) -> None:
    assert lock.take()
    assert not second.take()
    assert not second.take(shared=True)
    assert lock.take(shared=True)
    assert second.take(shared=True)
    assert not lock.take()
    assert second.take()
    second.release()
    second.release()
    assert lock.take()


def test_a_lock_names_its_holder_and_what_it_noted(lock: FileLock, second: FileLock) -> None:
    assert (second.holder(), second.read_note()) == (None, "")
    lock.write_note("not held, not written")
    assert second.read_note() == ""
    lock.take()
    assert (second.holder(), second.read_note()) == (os.getpid(), "")
    lock.write_note("these files")
    assert (second.holder(), second.read_note()) == (os.getpid(), "these files")


def test_what_was_noted_stays_for_the_next_holder(lock: FileLock, second: FileLock) -> None:
    lock.take()
    lock.write_note("these files")
    lock.release()
    assert second.take()
    assert second.read_note() == "these files"


def test_a_lock_file_that_says_something_else_names_nobody(lock: FileLock) -> None:
    lock.path.write_bytes(b"\xff\xfe")
    assert (lock.holder(), lock.read_note()) == (None, "")
    lock.path.write_text("somebody\n")
    assert lock.holder() is None


def test_a_lock_whose_file_was_removed_or_moved_does_not_count(lock: FileLock) -> None:
    assert (lock.linked, lock.in_place) == (False, False)
    lock.take()
    assert (lock.linked, lock.in_place) == (True, True)
    lock.path.rename(lock.path.with_name("moved"))
    assert (lock.linked, lock.in_place) == (True, False)
    lock.path.with_name("moved").rename(lock.path)
    assert (lock.linked, lock.in_place) == (True, True)
    lock.path.unlink()
    assert (lock.linked, lock.in_place) == (False, False)
    lock.path.touch()
    assert (lock.linked, lock.in_place) == (False, False)


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_whose_file_was_removed_is_asked_for_again(lock: FileLock, second: FileLock, shared: bool) -> None:
    lock.take(shared=shared)
    assert lock.holds()
    lock.path.unlink()
    assert lock.holds()
    assert lock.in_place
    assert second.take(shared=True) is shared
    second.release()
    lock.path.unlink()
    assert second.take()
    assert not lock.holds()


def test_a_lock_whose_file_is_removed_while_it_is_taken_is_not_taken(lock: FileLock, monkeypatch: pytest.MonkeyPatch) -> None:
    take = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        take(descriptor, how)
        lock.path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        assert not lock.take()
    assert lock.take()


def test_a_lock_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing" / "notes.db").take()


def test_a_link_leads_to_the_lock_of_the_file_itself(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere.db"
    link.symlink_to("notes.db")
    path.touch()
    assert FileLock(link).path == FileLock(path).path == beside(path, ".lock")
    ring = tmp_path / "ring"
    ring.symlink_to("ring")
    assert follow_links(ring) == ring


# files


@pytest.fixture
def three(path: Path) -> list[Path]:
    three = [path, beside(path, "-wal"), beside(path, "-shm")]
    for file in three:
        file.write_bytes(b"1234567")
    return three


@pytest.mark.parametrize("index", range(3))
def test_a_file_that_is_removed_moved_or_replaced_is_noticed(path: Path, three: list[Path], index: int) -> None:
    opened, file = OpenFiles(path), three[index]
    assert opened.complete
    assert opened.intact
    file.rename(file.with_name("moved"))
    assert not opened.intact
    assert opened.moved is (index == 0)
    file.touch()
    assert not opened.intact
    assert opened.moved is (index == 0)
    file.with_name("moved").replace(file)
    assert opened.intact
    file.unlink()
    assert not OpenFiles(path).complete


def test_a_log_is_removed_with_its_index_but_not_that_of_another_file(path: Path, three: list[Path]) -> None:
    opened = OpenFiles(path)
    three[1].rename(three[1].with_name("moved"))
    three[1].touch()
    opened.remove_log()
    assert [file.exists() for file in three] == [True, True, False]
    opened.remove_log()
    OpenFiles(path).remove_log()
    assert [file.exists() for file in three] == [True, False, False]


def test_the_length_of_the_log_is_known_from_the_last_look(path: Path, three: list[Path]) -> None:
    opened = OpenFiles(path)
    assert opened.log_bytes == 7
    three[1].write_bytes(b"123456789")
    assert opened.intact
    assert opened.log_bytes == 9


def test_a_link_that_leads_to_another_file_is_noticed(path: Path, three: list[Path], tmp_path: Path) -> None:
    link, other = tmp_path / "link.db", tmp_path / "other.db"
    other.touch()
    link.symlink_to(path)
    opened = OpenFiles(link)
    assert opened.complete
    link.unlink()
    link.symlink_to(other)
    assert opened.moved


def test_the_log_of_a_file_that_was_replaced_belongs_to_another(path: Path, three: list[Path]) -> None:
    noted = str(OpenFiles(path))
    assert not OpenFiles(path).has_foreign_log(noted)
    path.rename(path.with_name("moved"))
    path.touch()
    assert OpenFiles(path).has_foreign_log(noted)
    assert not OpenFiles(path).has_foreign_log("")
    assert not OpenFiles(path).has_foreign_log("something else that was noted")
    three[1].unlink()
    assert not OpenFiles(path).has_foreign_log(noted)
    assert not OpenFiles(path).has_foreign_log(noted.replace(noted.split(" ")[1], "none"))


# where files may not be


def test_a_file_with_a_second_name_is_refused(path: Path) -> None:
    check_shareable(path)
    path.touch()
    check_shareable(path)
    path.with_name("second.db").hardlink_to(path)
    with refused("a hard link"):
        check_shareable(path)
    path.with_name("second.db").unlink()
    check_shareable(path)


def test_a_folder_has_many_names_but_no_second_log(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    check_shareable(tmp_path)


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /srv rw - nfs4 server:/srv rw,vers=4.2
31 30 0:41 / /srv/local rw shared:5 master:6 - xfs /dev/sdb1 rw
32 22 0:42 / /mnt/with\\040space\\134and\\011tab rw - cifs //server/share rw
33 22 0:43 / /mnt/shared rw - ext4 /dev/sdc1 rw
34 33 0:44 / /mnt/shared rw - 9p share rw
35 22 0:45 / /mnt/odd\x1dline\u2028name rw - virtiofs share rw
36 22 0:46 / /home rw - fuse.sshfs user@host:/home rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/store", "nfs4"),
        ("/srvother", "ext4"),
        ("/srv/local/store", "xfs"),
        ("/mnt/with space\\and\ttab/store", "cifs"),
        ("/mnt/shared/store", "9p"),
        ("/mnt/odd\x1dline\u2028name", "virtiofs"),
        ("/home/me", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_innermost_latest_mount(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


def test_where_the_system_does_not_tell_no_file_system_is_known() -> None:
    assert file_system(Path("/srv"), "") is None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / {tmp_path.resolve()} rw - {kind} server rw\n")
    monkeypatch.setattr(files, "MOUNTS", mounts)
    with pytest.raises(StoreError, match=kind):
        check_shareable(path)
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "missing")
    check_shareable(path)


def test_a_folder_that_is_a_file_cannot_be_looked_at(path: Path) -> None:
    path.touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_shareable(path / "notes.db")
    assert caught.value.errno == errno.ENOTDIR
