from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from theorbo.broker import check, journal_command, recovery
from theorbo.broker.journal_files import open_to_read
from theorbo.broker.place import AlreadyRunning, Lock
from theorbo.broker.schema import JournalDamaged
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.line_schema import line_schema
from theorbo.schemas.names import EXECUTOR

from .bus import AGENT, RANK, SUBMITTED, log, record
from .journals import LOG, OPEN, SIGNALS, Kept, Writer, destroy, fill, flip, leaf_pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


class TestCheck:
    def test_a_sound_journal(self, path, capsys):
        fill(path, batches=20)
        assert journal_command.main(["check", str(path)]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[-1] == f"{path} is sound"
        assert [line.split()[0] for line in shown[:4]] == ["structure", "checksums", "positions", "numbers"]
        assert all(line.endswith("good") for line in shown[:4])

    def test_a_directory_will_do_and_json_is_one_object(self, path, capsys):
        fill(path, batches=20)
        assert journal_command.main(["check", str(path.parent), "--json"]) == 0
        (found,) = lines(capsys.readouterr().out)
        assert (found["sound"], found["problems"], found["executions"]) == (True, [], 2)
        assert found["batches"] == 2 * 22 + 4
        assert len(found["broker"]) == 32

    @pytest.mark.parametrize(
        ("damage", "look"),
        [
            (lambda path: flip(path, log("7 xxx")[:38]), "checksums"),
            (lambda path: destroy(path, leaf_pages(path, "batches")[1]), "structure"),
            (lambda path: destroy(path, leaf_pages(path, "batches_by_execution")[0]), "structure"),
            (lambda path: _do(path, "DELETE FROM batches WHERE sequence = 10"), "numbers"),
            (lambda path: _do(path, "DELETE FROM batches WHERE sequence = 62"), "numbers"),  # the end of a stream
            (lambda path: _do(path, "DELETE FROM batches WHERE sequence BETWEEN 3 AND 62"), "numbers"),  # all of two
            (lambda path: _do(path, "DELETE FROM batches WHERE sequence = 10"), "positions"),
            (lambda path: _do(path, "DELETE FROM executions WHERE ended IS NULL"), "structure"),
            (lambda path: _do(path, f"{_TWICE} 2 FROM batches WHERE sequence = 10"), "positions"),
            (lambda path: _do(path, f"{_TWICE} 2 FROM batches WHERE sequence = 10"), "numbers"),
        ],
    )
    def test_damage_is_found(self, path, capsys, damage, look):
        fill(path, batches=60)
        damage(path)
        assert journal_command.main(["check", str(path), "--json"]) == 1
        (found,) = lines(capsys.readouterr().out)
        assert look in {problem["look"] for problem in found["problems"]}
        assert not found["sound"]
        assert journal_command.main(["check", str(path)]) == 1
        assert f"theorbo journal recover {path}" in capsys.readouterr().out.splitlines()[-1]

    def test_what_was_recovered_is_sound(self, path, capsys):
        fill(path, batches=60)
        destroy(path, leaf_pages(path, "batches")[1])
        assert journal_command.main(["recover", str(path)]) == 0
        shown = capsys.readouterr()
        assert "events are lost" in shown.out
        assert re.search(r"was recovered: journal .*damaged_file .*rows \d+,.* holes \d+$", shown.err, re.MULTILINE)
        assert journal_command.main(["check", str(path)]) == 0

    @pytest.mark.parametrize(
        ("before", "change"),
        [
            ("SELECT count(*)", "INSERT INTO batches SELECT sequence + 10000, execution, channel, position + 10000,"
             " source_kind, source_index, first + 10000, count, flags, time, body, checksum FROM batches"),
            ("SELECT channel, position", "DELETE FROM batches WHERE sequence < 50"),
        ],
    )  # fmt: skip
    def test_what_a_broker_writes_and_removes_meanwhile_is_no_damage(self, path, before, change):
        fill(path, batches=60)
        broker = sqlite3.connect(path, isolation_level=None)
        connection = open_to_read(path)
        done = []

        def meanwhile(statement: str) -> None:
            if statement.startswith(before) and not done:
                done.append(broker.execute(change).rowcount)

        connection.set_trace_callback(meanwhile)
        found = check.check(connection, lambda *_: None)
        connection.close()
        broker.close()
        assert done[0] > 0
        assert found.problems == []

    def test_a_file_of_something_else(self, path, capsys):
        path.write_text("my thesis" * 1000)
        assert journal_command.main(["check", str(path)]) == 1
        shown = capsys.readouterr().out
        assert "not a database" in shown
        assert "good" not in shown
        assert shown.count("nothing could be looked at") == 3

    def test_it_changes_nothing(self, path, capsys):
        fill(path, batches=20)
        before = path.read_bytes()
        assert journal_command.main(["check", str(path)]) == 0
        assert path.read_bytes() == before
        assert not recovery.is_marked(path)


_TWICE = (
    "INSERT INTO batches (sequence, execution, channel, position, source_kind, source_index, first, flags, time, body,"
    " count) SELECT 9999, execution, channel, position, source_kind, source_index, first, flags, time, body,"
)


def _do(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


class TestExport:
    def test_each_event_is_one_line_of_our_schema(self, path, capsys):
        fill(path, batches=30)
        assert journal_command.main(["export", "--journal", str(path)]) == 0
        found = lines(capsys.readouterr().out)
        assert len(found) == 2 * (2 + 60) + 4
        validator = jsonschema.Draft202012Validator(line_schema())
        assert [error.message for line in found for error in validator.iter_errors(line)] == []
        assert [line["sequence"] for line in found] == sorted(line["sequence"] for line in found)
        assert all(line["journaled"] > 1e9 for line in found)
        assert {(line["task"], line["experiment"], line["run"]) for line in found} == {("galaxies", "mfx1", "7")}

    def test_executions_by_a_few_digits(self, path, capsys):
        fill(path, batches=5)
        assert journal_command.main(["export", "--journal", str(path), OPEN.hex()[-6:]]) == 0
        assert {line["execution"] for line in lines(capsys.readouterr().out)} == {OPEN.hex()}
        with pytest.raises(UsageError, match="no execution '123456' in this journal; the latest"):
            journal_command.main(["export", "--journal", str(path), "123456"])

    def test_since(self, path, capsys):
        fill(path, batches=5)
        assert journal_command.main(["export", "--journal", str(path), "--since", "1h"]) == 0
        assert len(lines(capsys.readouterr().out)) == 2 * 12 + 4
        assert journal_command.main(["export", "--journal", str(path), "--since", "2099-01-01"]) == 0
        assert capsys.readouterr().out == ""
        with pytest.raises(UsageError, match="'soon' is no time"):
            journal_command.main(["export", "--journal", str(path), "--since", "soon"])

    def test_while_a_broker_is_at_work(self, path, capsys):
        kept = fill(path, batches=5, clean=False)
        lock = Lock(path.parent, embedded=False)
        assert journal_command.main(["export", "--journal", str(path)]) == 0
        assert len(lines(capsys.readouterr().out)) == 2 * 12 + 4
        lock.release()
        kept.close()

    def test_a_copy_on_a_medium_that_cannot_be_written(self, path, tmp_path):
        fill(path, batches=5)
        medium = tmp_path / "medium"
        medium.mkdir()
        mount = [
            "unshare", "--mount", "--map-root-user", "sh", "-c",
            'mount -t tmpfs none "$1" && cp "$2" "$1/journal.sqlite" && mount -o remount,ro "$1"'
            ' && exec "$3" -m theorbo.schemas.command journal export --journal "$1"',
            "sh", str(medium), str(path), sys.executable,
        ]  # fmt: skip
        done = subprocess.run(mount, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert len(lines(done.stdout)) == 2 * 12 + 4

    def test_a_damaged_batch_is_left_out_and_told(self, path, capsys):
        fill(path, batches=5)
        flip(path, log("3 xxx")[:38])
        assert journal_command.main(["export", "--journal", str(path)]) == 1
        shown = capsys.readouterr()
        assert len(lines(shown.out)) == 2 * 12 + 4 - 2
        assert "left out, for it is damaged" in shown.err
        assert "/log, numbers " in shown.err

    def test_a_damaged_file_names_the_way_out(self, path, capsys):
        fill(path, batches=60)
        destroy(path, leaf_pages(path, "batches")[1])
        with pytest.raises(Unavailable, match="theorbo journal recover"):
            journal_command.main(["export", "--journal", str(path), "-o", str(path.with_name("out.jsonl"))])
        assert not list(path.parent.glob("out*"))

    def test_into_a_file_that_appears_when_it_is_whole(self, path, capsys):
        fill(path, batches=5)
        out = path.with_name("out.jsonl")
        assert journal_command.main(["export", "--journal", str(path), "-o", str(out)]) == 0
        assert len(lines(out.read_text())) == 2 * 12 + 4
        assert capsys.readouterr().out == ""

    def test_all_kinds_are_of_our_schema(self, path, capsys):
        kept, writer = Kept(path), Writer()
        odd = [
            record("metric", name="rate", value="NaN"),
            record("metric", name="rate", value=3, step=4),
            record("novel", colour="red"),
            record("log", level="NOISE", text=1),
            b"\x1eno json at all\n",
            record("progress", done="Infinity", total=None),
            record("data", name="d", parts=[{"mime": "application/json", "value": {"a": [1, None]}}]),
            record("result", parts=[{"mime": "image/png", "sha256": "0" * 64, "size": 9}], attachments=[{"a": 1}]),
            record("launcher_ended", exit_code=1, unrecorded={"3": -9}),
            record("conservation", streams={"rank:0/log": [3, 2]}, lost=1),
            record("loss", stream="rank:0/log", count=1, first=3, last=3, detail="x"),
            record("agent_closed", streams={"rank:0/log": 3}),
            record("rank_ended", exit_code=0, user_s=0.1),
            record("executor_attached", epoch=2, incarnation="ab", number=1, user="a", host="h"),
        ]
        from theorbo.broker.values import Keep

        kept.write(
            Keep(OPEN, 1.0, None, {}),
            writer.append(OPEN, EXECUTOR, SIGNALS, SUBMITTED),
            writer.append(OPEN, AGENT, SIGNALS, record("agent_started", host="node")),
            writer.append(OPEN, RANK, LOG, *odd),
        )
        kept.close()
        assert journal_command.main(["export", "--journal", str(path)]) == 0
        found = lines(capsys.readouterr().out)
        validator = jsonschema.Draft202012Validator(line_schema())
        assert [(line["kind"], error.message) for line in found for error in validator.iter_errors(line)] == []
        assert sum(line["kind"] == "invalid" for line in found) == 2


class TestCompact:
    def test_free_space_goes_back_to_the_disk(self, path, capsys):
        fill(path, batches=2000)
        before = path.stat().st_size
        _do(path, "DELETE FROM batches WHERE sequence % 4")
        assert journal_command.main(["compact", str(path)]) == 0
        assert path.stat().st_size < before * 0.4
        assert "MiB now" in capsys.readouterr().out
        kept = Kept(path)
        assert not kept.told
        kept.close()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: flip(path, log("7 xxx")[:38]),
            lambda path: _do(path, "DELETE FROM executions WHERE ended IS NULL"),
        ],
    )
    def test_a_damaged_journal_stays_as_it_is(self, path, damage):
        """SQLite does not mind this damage, and would write it into a new file, without the old one beside it."""
        fill(path, batches=20)
        damage(path)
        before = path.read_bytes()
        with pytest.raises(JournalDamaged, match="theorbo journal recover"):
            journal_command.main(["compact", str(path)])
        assert path.read_bytes() == before

    @pytest.mark.parametrize("command", ["compact", "recover"])
    def test_not_while_a_broker_is_at_work(self, path, command):
        fill(path, batches=5)
        lock = Lock(path.parent, embedded=False)
        with pytest.raises(AlreadyRunning, match=r"another broker.*end it"):
            journal_command.main([command, str(path)])
        lock.release()


def test_an_export_into_a_pipe_leaves_the_pipe_where_it_is(path, tmp_path):
    fill(path, batches=20)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    try:
        assert journal_command.main(["export", "--journal", str(path), "-o", str(pipe)]) == 0
        assert pipe.is_fifo()
        out, _ = reader.communicate(timeout=30)
        assert len(lines(out)) == 88
    finally:
        reader.kill()


class TestRecover:
    def test_a_restored_backup_gets_a_new_identity_and_keeps_everything(self, path, tmp_path, capsys):
        """The online backup of docs/journal.md, taken while a broker writes."""
        kept = fill(path, batches=20, clean=False)
        backup = tmp_path / "backup" / "journal.sqlite"
        backup.parent.mkdir()
        source, target = sqlite3.connect(path), sqlite3.connect(backup)
        source.backup(target)
        source.close()
        target.close()
        identity = kept.journal.broker
        kept.close()
        assert journal_command.main(["recover", str(backup.parent)]) == 0
        assert "new identity" in capsys.readouterr().out
        again = Kept(backup)
        assert again.journal.broker != identity
        again.close()
        assert journal_command.main(["check", str(backup)]) == 0

    def test_a_mark_of_a_broker_is_reason_enough(self, path, capsys):
        fill(path, batches=20)
        recovery.mark(path, "seen at run time", 1.0)
        assert journal_command.main(["recover", str(path)]) == 0
        assert "kept 48 batches of 2 executions; 0 events are lost" in capsys.readouterr().out
        assert len(list(path.parent.glob("journal.damaged-*.sqlite"))) == 1

    def test_a_recovery_that_was_killed_between_two_files_is_finished(self, path, capsys):
        fill(path, batches=20)
        path.rename(path.with_name("journal.recovering.sqlite"))
        aside = path.with_name("journal.damaged-X.sqlite")
        aside.write_bytes(b"the damaged one")
        recovery.mark_of(path).write_text(json.dumps({"problem": "a test", "aside": aside.name}))
        assert journal_command.main(["recover", str(path.parent)]) == 0
        assert "the journal was recovered" in capsys.readouterr().err
        assert not recovery.is_marked(path)
        assert journal_command.main(["check", str(path)]) == 0

    def test_a_damaged_journal_that_was_moved_away_is_not_there(self, path):
        recovery.mark(path, "seen at run time", 1.0)
        with pytest.raises(UsageError, match="there is no journal"):
            journal_command.main(["recover", str(path)])


class TestUsage:
    def test_there_is_no_journal(self, tmp_path):
        with pytest.raises(UsageError, match=r"there is no journal .*name a state directory"):
            journal_command.main(["check", str(tmp_path)])

    def test_an_empty_database_is_no_journal(self, path):
        sqlite3.connect(path).execute("VACUUM")
        path.write_bytes(b"")
        with pytest.raises(UsageError, match="is no journal"):
            journal_command.main(["export", "--journal", str(path)])

    @pytest.mark.parametrize("command", [[], ["check"], ["export"], ["compact"], ["recover"]])
    def test_help_teaches_by_examples(self, command, capsys):
        with pytest.raises(SystemExit) as end:
            journal_command.main([*command, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert "theorbo journal " in shown.split("example")[1]
        assert "json." not in shown

    def test_a_version_1_journal_is_read_without_a_change(self, path, capsys):
        from .test_journal_damage import _VERSION_1

        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(_VERSION_1)
        connection.execute("INSERT INTO executions VALUES (?, 1.0, NULL, 0, '{}')", (OPEN,))
        connection.execute("INSERT INTO batches VALUES (1, ?, 2, 1, 4, 0, 1, 1, 0, 9.0, ?)", (OPEN, log("old")))
        connection.close()
        copy = path.with_name("copy")
        shutil.copyfile(path, copy)
        assert journal_command.main(["check", str(path), "--json"]) == 0
        assert lines(capsys.readouterr().out)[0]["without_checksum"] == 1
        assert journal_command.main(["export", "--journal", str(path)]) == 0
        assert [line["text"] for line in lines(capsys.readouterr().out)] == ["old"]
        assert path.read_bytes() == copy.read_bytes()


def test_the_schema_is_a_schema_and_refuses_what_is_none(capsys):
    from theorbo.schemas import line_schema as module

    assert module.main([]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({"kind": "log", "text": "no place"})


def test_the_ten_lines_of_the_page_read_a_journal(path):
    """docs/journal.md tells how to do without us."""
    page = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    fill(path, batches=5)
    flip(path, log("3 xxx")[:38])
    done = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert sum(line.startswith("damaged: ") for line in shown) == 1
    assert len(shown) - 1 == 2 * 12 + 4 - 2
