from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from theorbo.broker import place
from theorbo.schemas.errors import Unavailable


def mountinfo(tmp_path: Path, kind: str) -> Path:
    device = os.stat(tmp_path).st_dev
    file = tmp_path / "mountinfo"
    file.write_text(
        "21 1 0:99 / /proc rw - proc proc rw\n"
        f"36 35 {os.major(device)}:{os.minor(device)} / /data rw,noatime shared:1 - {kind} server:/data rw\n"
    )
    return file


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "lustre", "gpfs", "fuse.sshfs", "beegfs"])
def test_a_network_file_system_is_refused_before_anything_is_written(tmp_path, kind):
    state = tmp_path / "state"
    with pytest.raises(Unavailable, match=f"network file system .{kind}.*local disk"):
        place.prepare(state, mountinfo(tmp_path, kind))
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "btrfs"])
def test_a_local_file_system_is_taken(tmp_path, kind):
    place.prepare(tmp_path / "state", mountinfo(tmp_path, kind))


def test_the_real_list_of_mounts_is_understood(tmp_path):
    assert place.file_system(tmp_path, Path("/proc/self/mountinfo")) not in ("", *place.NETWORK_FILE_SYSTEMS)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file/state"):
        place.prepare(tmp_path / "file" / "state")


def test_a_second_lock_is_refused_and_names_the_holder(tmp_path):
    lock = place.Lock(tmp_path, embedded=False)
    with pytest.raises(place.AlreadyRunning, match=f"pid {os.getpid()}") as refused:
        place.Lock(tmp_path, embedded=False)
    assert not refused.value.embedded
    lock.release()
    place.Lock(tmp_path, embedded=False).release()


def test_a_lock_held_by_an_embedded_broker_says_that_it_ends_by_itself(tmp_path):
    lock = place.Lock(tmp_path, embedded=True)
    with pytest.raises(place.AlreadyRunning, match="ends by itself") as refused:
        place.Lock(tmp_path, embedded=False)
    assert refused.value.embedded
    lock.release()


def test_the_lock_of_a_killed_broker_is_free(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from theorbo.broker.place import Lock;"
        "lock = Lock(Path(sys.argv[1]), embedded=False); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path]).returncode == -9
    place.Lock(tmp_path, embedded=False).release()


class TestRuntimeDirectory:
    def test_it_is_short_and_the_same_for_the_same_state_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 200)))
        (tmp_path / ("x" * 200)).mkdir()
        directory = place.runtime_directory(tmp_path)
        assert len(str(directory / "publisher")) <= 107
        assert place.runtime_directory(tmp_path) == directory
        place.remove_runtime_directory(directory)
        assert not directory.exists()

    def test_a_directory_that_others_may_enter_is_refused(self, tmp_path):
        directory = place.runtime_directory(tmp_path)
        directory.chmod(0o755)
        with pytest.raises(Unavailable, match="ours alone"):
            place.runtime_directory(tmp_path)
        place.remove_runtime_directory(directory)

    def test_a_symbolic_link_is_refused(self, tmp_path):
        directory = place.runtime_directory(tmp_path)
        directory.rmdir()
        directory.symlink_to(tmp_path)
        with pytest.raises(Unavailable, match="ours alone"):
            place.runtime_directory(tmp_path)
        directory.unlink()
