"""`theorbo ps` and `theorbo result` before a real broker."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest

from tests.observer.cluster import Cluster
from tests.observer.producer import RANK
from theorbo.observer.ps import fitted
from theorbo.schemas.names import Source, SourceKind


@pytest.fixture
def theorbo(broker, run_theorbo):
    def run(*arguments, **options):
        return run_theorbo(*arguments, "--broker", broker.connection_file, **options)

    return run


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def rich_result(one, big: bytes) -> None:
    array = npy(np.arange(12.0).reshape(3, 4))
    one.put(kind="data", name="preview", parts=[{"mime": "application/json", "value": [1, 2]}])
    one.result(
        [
            {"name": "count", "mime": "application/json", "value": 1234},
            {"name": "table", "mime": "application/x-npy", **one.attach(array)},
            {"name": "big", "mime": "application/octet-stream", **one.attach(big)},
            {"name": "page", "mime": "text/html", "text": "<p>Größe</p>"},
            {"name": "raw", "mime": "image/tiff", "path": "/data/raw.tiff", "size": 5, "sha256": "0" * 64},
            {"name": "odd", "mime": "application/octet-stream", "problem": "a socket cannot be sent"},
            {"name": "../../escape", "mime": "text/plain", "text": "here"},
        ],
        summary="1,234 galaxies",
    )
    one.flush()


# --- ps --------------------------------------------------------------------------------------------


def test_ps_lists_what_is_open_and_with_all_what_has_ended(producer, theorbo):
    old, new = producer(experiment="mfx1"), producer(experiment="cxi2", task="peaks", ranks=4)
    old.end(exit_code=3)
    now, everything = theorbo("ps"), theorbo("ps", "--all")
    assert [line.split()[0] for line in now.stdout.splitlines()] == ["EXECUTION", new.id[-8:]]
    assert [line.split()[0] for line in everything.stdout.splitlines()] == ["EXECUTION", new.id[-8:], old.id[-8:]]
    assert "FAILED" in everything.stdout
    assert "exit code 3" in everything.stdout
    assert "0/0/4" in now.stdout
    assert now.stderr == ""


def test_ps_aligns_its_columns_and_leaves_none_empty(producer, theorbo):
    producer(experiment="a-longer-name")
    producer(task="x\x9b2J")
    head, *rows = theorbo("ps").stdout.splitlines()
    assert all(row[head.index("STATE") :].startswith("PENDING") for row in rows)
    assert all(row[head.index("RUN") :].startswith("-") for row in rows)
    assert all("\x9b" not in row for row in rows)


def test_ps_says_when_there_is_nothing(theorbo):
    done = theorbo("ps")
    assert done.returncode == 0
    assert "nothing is running now; --all" in done.stderr


def test_ps_that_finds_nothing_does_not_say_that_nothing_runs(producer, theorbo):
    producer(experiment="mfx1")
    done = theorbo("ps", "--experiment", "mfx2")
    assert "nothing of what was asked for is running now; --all" in done.stderr


def test_ps_filters_and_gives_one_object_a_line(producer, theorbo):
    one = producer(experiment="mfx1", run="12")
    producer(experiment="mfx10")
    done = theorbo("ps", "--json", "--experiment", "mfx1")
    (found,) = map(json.loads, done.stdout.splitlines())
    assert found.items() >= {"execution": one.id, "task": "galaxies", "run": "12", "state": "PENDING"}.items()
    assert found["duration_s"] >= 0


def test_ps_and_result_answer_after_a_restart_of_the_broker(broker, producer, theorbo):
    one = producer()
    one.result([{"mime": "application/json", "value": 1}], summary="done")
    one.end()
    broker.kill()
    broker.restart()
    assert "COMPLETED" in theorbo("ps", "--all").stdout
    assert "done" in theorbo("result", one.id).stdout


def test_ps_shows_the_first_line_of_a_reason(producer, theorbo):
    one = producer()
    one.put(kind="task_failed", error="ValueError: one\ntwo")
    one.end(exit_code=1)
    (row,) = theorbo("ps", "--all").stdout.splitlines()[1:]
    assert row.endswith("ValueError: one …")


def fit(width, **wanted):
    columns = {"EXECUTION": 9, "TASK": 9, "EXPERIMENT": 10, "STATE": 9, "RANKS": 5, "HOSTS": 8, "REASON": 60, **wanted}
    return fitted(columns, width, ["HOSTS", "EXPERIMENT", "REASON", "TASK"])


def test_a_narrow_terminal_gets_fewer_columns_and_shorter_reasons():
    assert fit(200) == fit(10_000)
    assert fit(80) == {"EXECUTION": 9, "TASK": 9, "EXPERIMENT": 10, "STATE": 9, "RANKS": 5, "REASON": 28}
    assert fit(60) == {"EXECUTION": 9, "TASK": 9, "STATE": 9, "RANKS": 5, "REASON": 20}
    assert fit(10) == {"EXECUTION": 9, "STATE": 9, "RANKS": 5}


@pytest.mark.parametrize("width", range(40, 200, 7))
def test_no_row_is_wider_than_the_terminal(width):
    columns = fit(width, TASK=50)
    assert sum(columns.values()) + 2 * (len(columns) - 1) <= width


def test_ps_shows_nodes_job_and_stopped_ranks_and_one_execution_in_detail(broker, theorbo):
    with Cluster(broker.connection_file) as running:
        assert theorbo("stop", running.id).returncode == 0
        head, row = theorbo("ps").stdout.splitlines()
        assert row[head.index("STATE") :].startswith("STOPPED 2 of 2 ranks")
        assert row[head.index("HOSTS") :].startswith("node1,node2")
        assert row[head.index("CONTACT") :].startswith("alive")
        detail = theorbo("ps", running.id[-8:]).stdout
        assert "node 1     node2, alive, 1 rank started, 0 ended\n" in detail
        (found,) = map(json.loads, theorbo("ps", running.id, "--json").stdout.splitlines())
        assert (found["stopped"], [node["host"] for node in found["nodes"]]) == (2, ["node1", "node2"])


# --- result ----------------------------------------------------------------------------------------


def test_result_shows_what_there_is_in_a_few_words(producer, theorbo):
    one = producer()
    rich_result(one, b"x" * 100_000)
    done = theorbo("result", one.id[:7])
    assert done.returncode == 0
    head, *lines = done.stdout.splitlines()
    assert head.startswith(f"{one.id}: galaxies, PENDING")
    assert lines == [
        "result: 1,234 galaxies",
        "  count = 1234",
        "  table (application/x-npy, 224 bytes), shape (3, 4), dtype <f8",
        "  big (application/octet-stream, 100000 bytes)",
        "  page = <p>Größe</p>",
        "  raw /data/raw.tiff",
        "  odd (not sent: a socket cannot be sent)",
        "  ../../escape = here",
    ]
    assert "is PENDING; this is what there is so far" in done.stderr


def test_result_saves_every_part_byte_by_byte_and_a_manifest(producer, theorbo, tmp_path):
    one = producer()
    big = np.random.default_rng(1).bytes(5_000_001)
    rich_result(one, big)
    one.end()
    place = tmp_path / "new" / "saved"
    done = theorbo("result", one.id, "--save", place, "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "result-big.bin").read_bytes() == big
    assert np.array_equal(np.load(place / "result-table.npy"), np.arange(12.0).reshape(3, 4))
    assert json.loads((place / "result-count.json").read_text()) == 1234
    assert (place / "result-page.html").read_text() == "<p>Größe</p>"
    assert json.loads((place / "preview.json").read_text()) == [1, 2]
    manifest = json.loads((place / "manifest.json").read_text())
    parts = {part["name"]: part for result in manifest["results"] for part in result["parts"]}
    assert parts["big"]["sha256"] == hashlib.sha256(big).hexdigest()
    assert parts["table"].items() >= {"file": "result-table.npy", "shape": [3, 4], "dtype": "<f8"}.items()
    assert parts["raw"].items() >= {"path": "/data/raw.tiff", "size": 5}.items()
    assert parts["odd"]["problem"] == "a socket cannot be sent"
    written = {part["file"] for part in parts.values() if "file" in part} | {"manifest.json"}
    assert {path.name for path in place.iterdir()} == written
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_results_of_several_ranks_say_whose_they_are(producer, theorbo, tmp_path):
    one = producer(ranks=3)
    for rank in (2, 1):
        parts = [{"mime": "application/json", "value": rank}, {"name": "t", "mime": "text/plain", "text": "x"}]
        one.put(Source(SourceKind.RANK, rank), kind="result", name="result", parts=parts, summary=f"of {rank}")
    one.put(kind="result", name="total", parts=[{"mime": "application/json", "value": 3}])
    one.flush()
    shown = [line for line in theorbo("result", one.id).stdout.splitlines()[1:] if not line.startswith(" ")]
    assert sorted(shown) == ["rank 0 total", "rank 1 result: of 1", "rank 2 result: of 2"]
    assert theorbo("result", one.id, "--save", tmp_path).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "result-rank1.json", "result-rank2.json", "result-t-rank1.txt", "result-t-rank2.txt", "total.json",
        "manifest.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "result-rank1.json").read_text()) == 1
    found = json.loads((tmp_path / "manifest.json").read_text())["results"]
    assert sorted((item["rank"], item["source"]) for item in found) == [(0, "rank:0"), (1, "rank:1"), (2, "rank:2")]
    assert all(item["position"] and item["time"] for item in found)


def test_result_overwrites_only_when_it_is_told_to_and_otherwise_writes_nothing(producer, theorbo, tmp_path):
    one = producer()
    rich_result(one, b"x" * 10)
    (tmp_path / "result-page.html").write_text("mine")
    done = theorbo("result", one.id, "--save", tmp_path)
    assert done.returncode == 2
    assert "result-page.html is there already; --force overwrites" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["result-page.html"]
    assert theorbo("result", one.id, "--save", tmp_path, "--force").returncode == 0
    assert (tmp_path / "result-page.html").read_text() == "<p>Größe</p>"


def test_result_as_json_has_the_fields_of_tail_and_what_arrays_say_of_themselves(producer, theorbo):
    one = producer()
    rich_result(one, b"x" * 10)
    (found,) = map(json.loads, theorbo("result", one.id[-6:], "--json").stdout.splitlines())
    assert found.items() >= {"execution": one.id, "kind": "result", "rank": 0, "summary": "1,234 galaxies"}.items()
    parts = {part["name"]: part for part in found["parts"]}
    assert parts["count"]["value"] == 1234
    assert parts["table"]["shape"] == [3, 4]


def test_many_results_come_page_by_page_in_order(producer, theorbo):
    one = producer()
    for number in range(173):
        one.result([{"mime": "application/json", "value": "y" * 20_000}], summary=str(number))
    one.flush()
    found = [json.loads(line) for line in theorbo("result", one.id, "--json").stdout.splitlines()]
    assert [item["summary"] for item in found] == list(map(str, range(173)))


def test_an_execution_without_results_says_so_with_its_reason(producer, theorbo):
    one = producer()
    one.end(exit_code=3)
    done = theorbo("result", one.id)
    assert done.returncode == 1
    assert "there is no result: exit code 3" in done.stderr


def test_the_rest_is_given_when_one_attachment_is_gone(producer, theorbo, tmp_path):
    one = producer()
    gone = {"name": "gone", "mime": "application/x-npy", "sha256": "ab" * 32, "size": 10}
    evil = {"name": "evil", "mime": "application/x-npy", "sha256": "../../etc/passwd", "size": 10}
    here = {"name": "here", "mime": "text/plain", "text": "here"}
    one.put(RANK, kind="result", name="result", parts=[gone, evil, here], attachments=[])
    one.flush()
    done = theorbo("result", one.id, "--save", tmp_path)
    assert done.returncode == 6
    assert "gone: " in done.stderr
    assert "evil: " in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"result-here.txt", "manifest.json"}


def test_an_unknown_or_ambiguous_execution_is_told_what_there_is(producer, theorbo):
    one = producer()
    done = theorbo("result", "0" * 32)
    assert done.returncode == 2
    assert f"there is no execution '{'0' * 32}'; the latest: {one.id} (galaxies, PENDING)" in done.stderr
    done = theorbo("result", "../../x")
    assert done.returncode == 2
    assert "4 to 32 hexadecimal digits" in done.stderr


def test_a_place_that_is_no_directory_and_force_without_save_are_refused(producer, theorbo, tmp_path):
    one = producer()
    (tmp_path / "file").write_text("")
    done = theorbo("result", one.id, "--save", tmp_path / "file")
    assert (done.returncode, "that is no directory" in done.stderr) == (2, True)
    done = theorbo("result", one.id, "--force")
    assert (done.returncode, "needs --save DIR" in done.stderr) == (2, True)
