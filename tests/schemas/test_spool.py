"""The spool: a directory of ours alone, files that are only appended to, names that say who reports."""

import os
import resource
import shutil
import stat
import threading
from pathlib import Path

import pytest

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.records import Attachment, RecordReader, encode_record
from theorbo.schemas.spool import (
    ATTACHMENTS,
    EPOCH,
    PRESSURE,
    append,
    checked_execution,
    default_root,
    make_spool,
    open_append,
    own_directory,
    parse_spool_name,
    spool_files,
    spool_name,
    store_attachment,
    take_epoch,
)

EXECUTION = "0190cafe" * 4
RANK_3 = Source(SourceKind.RANK, 3)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_spool_is_the_users_alone_whatever_the_umask_is(tmp_path):
    before = os.umask(0)
    try:
        spool = make_spool(tmp_path, EXECUTION)
    finally:
        os.umask(before)
    assert spool == tmp_path / f"theorbo-{os.getuid()}" / EXECUTION
    assert [mode(path) for path in (spool.parent, spool, spool / ATTACHMENTS)] == [0o700] * 3
    assert mode(spool / PRESSURE) == 0o600
    assert (spool / PRESSURE).read_bytes() == b"0"


def test_a_spool_that_is_there_is_found_again_with_what_is_in_it(tmp_path):
    spool = make_spool(tmp_path, EXECUTION)
    (spool / PRESSURE).write_bytes(b"1")
    (spool / "rank-0.rec").write_bytes(b"something")
    assert make_spool(tmp_path, EXECUTION) == spool
    assert (spool / PRESSURE).read_bytes() == b"1"
    assert (spool / "rank-0.rec").read_bytes() == b"something"


@pytest.mark.parametrize("which", ["theorbo-UID", "theorbo-UID/EXECUTION", "theorbo-UID/EXECUTION/attachments"])
@pytest.mark.parametrize("how", ["mode", "owner", "symlink", "file"])
def test_a_directory_on_the_way_that_is_not_ours_alone_is_refused_and_named(tmp_path, which, how):
    place = tmp_path / which.replace("UID", str(os.getuid())).replace("EXECUTION", EXECUTION)
    place.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    for parent in place.parents:
        if parent == tmp_path:
            break
        parent.chmod(0o700)
    if how == "mode":
        place.mkdir()
        place.chmod(0o777)
        wrong = "has mode 0777, expected 0700"
    elif how == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a directory away")
        place.mkdir(mode=0o700)
        os.chown(place, 12345, 12345)
        wrong = f"belongs to uid 12345, not to uid {os.getuid()}"
    elif how == "symlink":
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        place.symlink_to(elsewhere)
        wrong = "is no directory"
    else:
        place.write_text("")
        wrong = "is no directory"
    with pytest.raises(Unavailable, match=rf"{place} {wrong}; remove it or name another place"):
        make_spool(tmp_path, EXECUTION)
    if how == "symlink":
        assert not any(elsewhere.iterdir())


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(
        Unavailable, match=r"cannot make directory .*absent/spool: No such file or directory; name another"
    ):
        own_directory(tmp_path / "absent" / "spool")


@pytest.mark.parametrize(
    ("source", "channel", "name"),
    [
        (RANK_3, None, "rank-3.rec"),
        (RANK_3, Channel.STDOUT, "rank-3.out"),
        (RANK_3, Channel.STDERR, "rank-3.err"),
        (Source(SourceKind.AGENT, 0), None, "agent-0.rec"),
        (Source(SourceKind.AGENT, 0), Channel.METRICS, "agent-0.use"),
        (LAUNCHER, None, "launcher.rec"),
        (EXECUTOR, None, "executor.rec"),
    ],
)
def test_a_file_is_named_after_who_reports_in_it(source, channel, name):
    assert spool_name(source, channel) == name
    assert parse_spool_name(name) == (source, channel)


@pytest.mark.parametrize(
    "name", ["end", "pressure", "checkpoint.json", "rank-x.rec", "rank-1.rec~", ".rank-1.rec", "rank-1"]
)
def test_other_files_report_nothing(name):
    assert parse_spool_name(name) is None


def test_only_regular_files_with_such_names_are_read(tmp_path):
    spool = make_spool(tmp_path, EXECUTION)
    (spool / "rank-1.out").write_bytes(b"")
    (spool / "launcher.rec").write_bytes(b"")
    (spool / "rank-2.rec").symlink_to("/etc/passwd")
    (spool / "rank-4.rec").mkdir()
    assert list(spool_files(spool)) == [
        (spool / "launcher.rec", LAUNCHER, None),
        (spool / "rank-1.out", Source(SourceKind.RANK, 1), Channel.STDOUT),
    ]


def test_what_is_appended_by_two_writers_stands_one_after_the_other(tmp_path):
    path = tmp_path / "rank-0.rec"
    one, two = open_append(path), open_append(path)
    records = [encode_record({"kind": "log", "time": 1.0, "text": str(number)}) for number in range(6)]
    for number, record in enumerate(records):
        append((one, two)[number % 2], record)
    os.close(one)
    os.close(two)
    pieces, damages = RecordReader().feed(path.read_bytes())
    assert [piece.record for piece in pieces] == records
    assert not damages
    assert mode(path) == 0o600


def test_a_spool_file_that_is_a_symlink_is_not_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "rank-0.rec").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        open_append(tmp_path / "rank-0.rec")
    assert victim.read_text() == "mine"


def test_a_descriptor_of_the_spool_is_not_inherited(tmp_path):
    descriptor = open_append(tmp_path / "rank-0.rec")
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_record_that_did_not_fit_is_an_error_and_hides_nothing_of_what_follows(tmp_path):
    """A disk that is full in the middle of a record (here: a limit on the file's size), and then has room again."""
    path = tmp_path / "rank-0.rec"
    records = [encode_record({"kind": "log", "time": 1.0, "text": letter * 600}) for letter in "abc"]
    descriptor = open_append(path)
    append(descriptor, records[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(descriptor, records[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(descriptor, records[2])
    os.close(descriptor)
    pieces, damages = RecordReader().feed(path.read_bytes())
    assert [piece.record for piece in pieces] == [records[0], records[2]]
    assert [damage.why for damage in damages] == ["record torn in mid-write"]


def test_a_full_disk_is_an_error_of_the_call():
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left on device"):
        append(descriptor, b"\x1e{}\n")
    os.close(descriptor)


def test_an_attachment_is_named_by_its_digest_and_stored_once(tmp_path):
    spool = make_spool(tmp_path, EXECUTION)
    expected = Attachment("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3)
    assert store_attachment(spool, b"abc") == expected
    assert store_attachment(spool, b"abc") == expected
    assert [(file.name, file.read_bytes()) for file in (spool / ATTACHMENTS).iterdir()] == [(expected.sha256, b"abc")]


def test_threads_may_store_the_same_bytes_at_once(tmp_path):
    spool, payload, problems = make_spool(tmp_path, EXECUTION), bytes(3_000_000), []

    def store():
        try:
            for _ in range(15):
                store_attachment(spool, payload)
        except OSError as error:
            problems.append(error)

    threads = [threading.Thread(target=store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(list((spool / "attachments").iterdir())) == 1


def test_an_attachment_that_cannot_be_stored_leaves_nothing_behind(tmp_path):
    spool = make_spool(tmp_path, EXECUTION)
    digest = store_attachment(spool, b"abc").sha256
    (spool / ATTACHMENTS / digest).unlink()
    (spool / ATTACHMENTS / digest).mkdir()
    with pytest.raises(OSError, match="directory"):
        store_attachment(spool, b"abc")
    assert [path.name for path in (spool / ATTACHMENTS).iterdir()] == [digest]


def test_the_place_of_spools_is_the_sites_then_the_schedulers_then_the_temporary_directory(monkeypatch, tmp_path):
    for name in ("THEORBO_SPOOL_ROOT", "SLURM_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert default_root() == Path("/tmp")
    for name in ("TMPDIR", "SLURM_TMPDIR", "THEORBO_SPOOL_ROOT"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
        assert default_root() == tmp_path / name
    monkeypatch.setenv("THEORBO_SPOOL_ROOT", str(tmp_path / "absent"))
    assert default_root() == tmp_path / "SLURM_TMPDIR"


@pytest.mark.parametrize("text", [EXECUTION, EXECUTION.upper(), "0190cafe-0190-cafe-0190-cafe0190cafe"])
def test_an_executions_id_is_taken_in_any_usual_spelling(text):
    assert checked_execution(text) == bytes.fromhex(EXECUTION)


@pytest.mark.parametrize("text", ["", "galaxies", EXECUTION[:-1], EXECUTION + "0", "g" * 32, "../" + EXECUTION])
def test_what_is_no_executions_id_is_refused_with_the_way_out(text):
    with pytest.raises(UsageError, match="is no execution id: 32 hexadecimal digits are wanted"):
        checked_execution(text)


# --- epochs --------------------------------------------------------------------------------------


def test_each_agent_has_a_higher_epoch_than_the_one_before(tmp_path):
    spool = make_spool(tmp_path, "ab" * 16)
    before = (spool / EPOCH).stat()
    assert [take_epoch(spool) for _ in range(3)] == [1, 2, 3]
    after = (spool / EPOCH).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)  # in place: a full disk does not matter


def test_an_epoch_file_that_is_missing_is_made_again_above_what_was_reported(tmp_path):
    spool = make_spool(tmp_path, "ab" * 16)
    (spool / EPOCH).unlink()
    assert take_epoch(spool, least=5) == 5
    assert take_epoch(spool, least=5) == 6


def test_a_copy_of_a_spool_has_no_epoch(tmp_path):
    spool = make_spool(tmp_path, "ab" * 16)
    assert take_epoch(spool) == 1
    copy = tmp_path / "copy"
    shutil.copytree(spool, copy)
    with pytest.raises(Unavailable, match=r"is a copy of a spool .* deliver the original"):
        take_epoch(copy)
    assert take_epoch(spool) == 2


@pytest.mark.parametrize("text", ["", "x", "1 2", "one two", "9" * 40])
def test_an_epoch_file_that_cannot_be_understood_counts_as_missing(tmp_path, text):
    spool = make_spool(tmp_path, "ab" * 16)
    (spool / EPOCH).write_text(text)
    assert take_epoch(spool, least=4) == 4
    assert take_epoch(spool, least=4) == 5
