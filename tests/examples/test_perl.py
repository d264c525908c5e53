"""examples/perl: a program that appends its records itself, with nothing of ours."""

import json
import subprocess
from pathlib import Path

from theorbo.schemas.spool import make_spool, tell_cancelled

SCRIPT = Path(__file__).parents[2] / "examples" / "perl" / "report.pl"


def test_what_it_appends_arrives(run_theorbo):
    done = run_theorbo("run", "--json", "--", str(SCRIPT), "5")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["done"] for event in events if event["kind"] == "progress"] == [1, 2, 3, 4, 5]
    assert [event["step"] for event in events if event["kind"] == "metric"] == [1, 2, 3, 4, 5]
    (result,) = [event for event in events if event["kind"] == "result"]
    assert abs(result["parts"][0]["value"]["x"] ** 2 - 2) < 1e-9
    assert [event for event in events if event["kind"] in ("loss", "invalid")] == []


def test_it_sees_that_it_is_cancelled_and_ends_in_good_order(isolation):
    spool = make_spool(isolation / "spool", "0" * 32)
    tell_cancelled(spool)
    done = subprocess.run([SCRIPT, "1000"], env={"THEORBO_SPOOL": str(spool), "THEORBO_RANK": "3"}, timeout=60)
    assert done.returncode == 3
    assert b'"summary":"0 cycles"' in (spool / "rank-3.rec").read_bytes()


def test_where_there_is_no_room_it_leaves_out_what_is_not_vital(isolation):
    spool = make_spool(isolation / "spool", "0" * 32)
    (spool / "pressure").write_bytes(b"1")
    subprocess.run([SCRIPT, "2"], env={"THEORBO_SPOOL": str(spool)}, timeout=60, check=True)
    assert (spool / "rank-0.rec").read_bytes().count(b"\x1e") == 1


def test_without_a_bus_it_prints():
    done = subprocess.run([SCRIPT, "2"], capture_output=True, text=True, timeout=60, env={})
    assert done.returncode == 0
    assert [json.loads(line)["kind"] for line in done.stderr.splitlines()] == [
        "log", "progress", "metric", "progress", "metric", "result",
    ]  # fmt: skip
