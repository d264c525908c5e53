from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from theorbo.schemas.records import RecordReader
from theorbo.schemas.spool import make_spool
from theorbo.task_runtime import wrapper
from theorbo.task_runtime.inprocess_path import make_inprocess_path
from theorbo.task_runtime.wrapper import MemoryGroup


@pytest.fixture
def spool(tmp_path):
    spool = make_spool(tmp_path, "0" * 32)
    make_inprocess_path(spool / "python")
    return spool


def command(*program):
    return [sys.executable, "-I", "-S", wrapper.__file__, "--", *program]


def start(spool, *program, **environment):
    environment = {"PATH": os.environ["PATH"], "THEORBO_SPOOL": str(spool), **(environment or {"THEORBO_RANK": "0"})}
    return subprocess.Popen(command(*program), env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def run(spool, *program, **environment):
    process = start(spool, *program, **environment)
    _, stderr = process.communicate(timeout=20)
    return process.returncode, stderr.decode()


def reported(spool, rank=0):
    pieces, damages = RecordReader().feed((spool / f"rank-{rank}.rec").read_bytes(), final=True)
    assert not damages
    return [json.loads(piece.record[1:]) for piece in pieces]


def test_output_goes_to_the_spool_and_start_and_end_are_reported(spool):
    assert run(spool, "sh", "-c", "echo $$; echo err >&2") == (0, "")
    started, ended = reported(spool)
    assert (spool / "rank-0.out").read_text() == f"{started['pid']}\n"
    assert (spool / "rank-0.err").read_text() == "err\n"
    assert started["kind"] == "rank_started"
    assert started["host"] == os.uname().nodename
    assert min(started["parent_pid"], started["process_group"], started["start_ticks"]) > 0
    assert ended["kind"] == "rank_ended"
    assert ended["exit_code"] == 0
    assert ended["pid"] == started["pid"]
    assert ended["user_s"] + ended["system_s"] > 0
    assert ended["max_rss_bytes"] > 0


def test_an_exit_status_is_reported_and_handed_on(spool):
    assert run(spool, "sh", "-c", "exit 3")[0] == 3
    assert reported(spool)[1]["exit_code"] == 3


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGABRT])
def test_a_signal_is_named_and_the_thin_parent_dies_of_the_same(spool, number):
    assert run(spool, "sh", "-c", f"kill -{number.value} $$")[0] == -number
    assert reported(spool)[1]["signal"] == number.name


def test_a_thin_parent_leaves_no_core_of_its_own(spool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
    try:
        process = start(spool, "sh", "-c", "ulimit -c 0; kill -SEGV $$")
        _, status, _ = os.wait4(process.pid, 0)
        process.returncode = -signal.SIGSEGV
        process.stderr.close()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert not os.WCOREDUMP(status)


def test_a_missing_program_is_named(spool):
    assert run(spool, "no-such-program", "-x")[0] == 127
    (ended,) = reported(spool)
    assert ended["problem"] == "program not found: no-such-program"


def test_a_missing_interpreter_is_not_called_a_missing_program(spool, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    assert run(spool, str(script))[0] == 127
    assert reported(spool)[0]["problem"] == f"interpreter of the script not found: {script}"


def test_a_file_that_is_no_program_is_named_with_the_reason(spool, tmp_path):
    assert run(spool, str(tmp_path))[0] == 126
    assert reported(spool)[0]["problem"] == f"program cannot be started: {tmp_path}: Permission denied"


def test_signals_end_neither_the_thin_parent_nor_change_what_the_program_sees(spool, wait_for):
    """A batch system signals every process of a job; the program may take its time to end in good order."""
    script = "trap 'sleep 0.2; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    process = start(spool, "sh", "-c", script)
    wait_for(lambda: (spool / "rank-0.out").exists() and (spool / "rank-0.out").read_text())
    wait_for(lambda: len(reported(spool)) == 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        process.send_signal(number)
    os.kill(reported(spool)[0]["pid"], signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 5


def test_the_program_has_an_empty_mask_and_ignores_nothing(spool):
    run(spool, "grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    blocked, ignored = (int(line.split()[1], 16) for line in (spool / "rank-0.out").read_text().splitlines())
    assert blocked == 0
    assert not [s for s in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (s - 1) & 1]


def test_an_inherited_descriptor_reaches_the_program(spool):
    """MPICH's ranks find their launcher by an open socket whose number is in PMI_FD."""
    reader, writer = os.pipe()
    environment = {"PATH": os.environ["PATH"], "THEORBO_SPOOL": str(spool), "PMI_RANK": "0"}
    subprocess.run(
        command("sh", "-c", f"echo here > /proc/self/fd/{writer}"), env=environment, pass_fds=(writer,), check=True
    )
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "here\n"


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"PMI_RANK": "3", "SLURM_PROCID": "0"}, 3),
        ({"OMPI_COMM_WORLD_RANK": "2", "SLURM_PROCID": "0"}, 2),
        ({"PMIX_RANK": "4", "THEORBO_RANK": "1"}, 4),
        ({"THEORBO_RANK": "1", "SLURM_PROCID": "0"}, 1),
        ({"SLURM_PROCID": "5"}, 5),
    ],
)
def test_the_rank_is_what_the_launcher_says(spool, environment, rank):
    assert run(spool, "sh", "-c", "echo $THEORBO_RANK", **environment) == (0, "")
    assert (spool / f"rank-{rank}.out").read_text() == f"{rank}\n"


def test_without_a_rank_it_says_where_it_looked(spool):
    status, stderr = run(spool, "true", NOTHING="1")
    assert status == 1
    assert "PMI_RANK" in stderr


def test_a_full_disk_does_not_change_how_a_rank_ends(spool):
    limit = "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    limit += "os.execv(sys.argv[1], sys.argv[1:])"
    environment = {"PATH": os.environ["PATH"], "THEORBO_SPOOL": str(spool), "THEORBO_RANK": "0"}
    os.mkfifo(spool / wrapper.RANKS_PIPE)
    pipe = os.open(spool / wrapper.RANKS_PIPE, os.O_RDONLY | os.O_NONBLOCK)
    ended = subprocess.run([sys.executable, "-c", limit, *command("sh", "-c", "exit 4")], env=environment)
    assert ended.returncode == 4
    assert (spool / "rank-0.rec").read_bytes() == b""
    lines = os.read(pipe, 1000).decode().splitlines()
    os.close(pipe)
    assert lines[-1] == f"ended 0 4 {errno.EFBIG}"  # so the launch can say how it ended


def test_launch_is_told_how_a_rank_ended(spool):
    os.mkfifo(spool / wrapper.RANKS_PIPE)
    pipe = os.open(spool / wrapper.RANKS_PIPE, os.O_RDONLY | os.O_NONBLOCK)
    run(spool, "sh", "-c", "kill -USR1 $$", THEORBO_RANK="3")
    started, ended = os.read(pipe, 1000).decode().splitlines()
    os.close(pipe)
    pid, parent, group, ticks = (
        reported(spool, 3)[0][n] for n in ("pid", "parent_pid", "process_group", "start_ticks")
    )
    assert started == f"started 3 {pid} {parent} {group} {ticks}"
    assert ended == f"ended 3 -{int(signal.SIGUSR1)} 0"


def test_it_needs_little_of_the_standard_library(spool):
    """Thousands of ranks pay for what is imported here."""
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1]); import theorbo.schemas.spool, theorbo.schemas.records; "
        "print(*{'hashlib', 'socket', 'subprocess', 'tempfile', 'theorbo.task_runtime', 'logging'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", probe, str(spool / "python")], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "\n"
    assert Path(wrapper.__file__).is_file()


# --- memory --------------------------------------------------------------------------------------

HUNGRY = "import time; kept = bytearray(200 << 20); kept[::4096] = b'x' * len(kept[::4096]); time.sleep(60)"


@pytest.fixture
def small_memory():
    """A cgroup of 48 MiB: the file to which a process writes its number in order to be in it."""
    found = MemoryGroup()
    group = Path(found.directory) / f"theorbo-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if (Path(found.directory) / "memory.limit_in_bytes").exists() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(48 << 20))
    except OSError as error:
        pytest.skip(f"making a cgroup is not allowed here: {error}")
    yield group / "cgroup.procs"
    group.rmdir()


def test_a_program_that_is_killed_for_want_of_memory_is_told_from_one_that_is_killed(spool, small_memory):
    environment = {"PATH": os.environ["PATH"], "THEORBO_SPOOL": str(spool), "THEORBO_RANK": "0"}
    inside = f'echo $$ > {small_memory}; exec "$@"'
    process = subprocess.run(["sh", "-c", inside, "sh", *command(sys.executable, "-c", HUNGRY)], env=environment)
    assert process.returncode == -signal.SIGKILL
    ended = reported(spool)[1]
    assert ended["signal"] == "SIGKILL"
    assert ended["out_of_memory"] is True
    assert ended["memory_limit_bytes"] == 48 << 20
    assert run(spool, "sh", "-c", "kill -9 $$", THEORBO_RANK="1")[0] == -9
    assert "out_of_memory" not in reported(spool, 1)[1]


def test_the_memory_group_is_found_in_a_container_of_version_1(tmp_path):
    top = tmp_path / "memory"
    (top / "slurm" / "step").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("4:cpu:/x\n3:memory:/docker/1ab/slurm/step\n0::/y\n")
    (tmp_path / "mountinfo").write_text(
        f"30 23 0:26 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
        f"31 23 0:27 /docker/1ab {top} ro - cgroup cgroup rw,memory\n"
    )
    (top / "slurm" / "step" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (top / "slurm" / "step" / "memory.stat").write_text("cache 1\nhierarchical_memory_limit 4096\n")
    group = MemoryGroup(str(tmp_path))
    assert (group.directory, group.kills(), group.limit_bytes()) == (f"{top}/slurm/step", 3, 4096)


def test_the_memory_group_is_found_in_version_2_and_the_smallest_bound_counts(tmp_path):
    top = tmp_path / "cgroup2"
    (top / "job" / "step").mkdir(parents=True)
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "mountinfo").write_text(f"30 23 0:26 / {top} rw - cgroup2 cgroup2 rw\n")
    (top / "job" / "step" / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n")
    (top / "job" / "step" / "memory.max").write_text("max\n")
    (top / "job" / "memory.max").write_text("1048576\n")
    group = MemoryGroup(str(tmp_path))
    assert (group.directory, group.kills(), group.limit_bytes()) == (f"{top}/job/step", 2, 1 << 20)


@pytest.mark.parametrize("groups", ["", "nonsense", "0::/gone\n"])
def test_where_there_is_no_memory_group_nobody_knows(tmp_path, groups):
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text("nonsense\n")
    group = MemoryGroup(str(tmp_path))
    assert (group.kills(), group.limit_bytes()) == (-1, 0)
