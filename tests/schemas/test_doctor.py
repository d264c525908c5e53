"""`theorbo doctor`: each kind of trouble is named, with what mends it."""

import contextlib
import getpass
import json
import subprocess
import threading
import time

import pytest
import zmq

from tests.schemas.leading_nowhere import UNRESOLVABLE, blackhole, dead, mute, other_service
from theorbo.schemas import __version__
from theorbo.schemas.connection import KEY_VARIABLE, Connection, KeyPair, key_file
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.findings import (
    Spool,
    Talk,
    on_clock,
    on_launchers,
    on_limits,
    on_spool,
    on_talk,
    on_versions,
    summary,
)
from theorbo.schemas.frames import Command, Header, encode_json
from theorbo.schemas.limits import DOCTOR_S, GIB, MIB
from theorbo.schemas.link import user_key


class FakeBroker:
    """Answers HELLO, unencrypted, as a broker might whose clock or version is another."""

    def __init__(self, *, ahead_s=0.0, version=__version__, protocol=1, code=""):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._ahead_s, self._version, self._protocol, self._code = ahead_s, version, protocol, code
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _answer(self):
        while not self._ended.is_set():
            if self._socket.poll(20):
                peer, command, *_ = self._socket.recv_multipart()
                if command == Command.HELLO:
                    header = bytearray(Header(time=time.time() + self._ahead_s).encode())
                    header[2] = self._protocol
                    body = encode_json(broker="a journal", version=self._version)
                    if self._code:
                        body = encode_json(code=self._code, message="not today")
                    answer = Command.REFUSED if self._code else Command.WELCOME
                    self._socket.send_multipart([peer, answer, bytes(header), body])


@pytest.fixture
def doctor(run_theorbo, isolation):
    """Runs it on a connection file; gives the findings by check, and the exit status under `status`."""

    def run(connection, *options):
        path = isolation / "examined.json"
        if connection:
            connection.save(path)
        done = run_theorbo("doctor", "--json", "--broker", path, *options)
        assert done.stderr == ""
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert found.pop()["check"] == "all"
        assert all(each["fix"] for each in found if each["verdict"] != "ok")
        bad = [each for each in found if each["verdict"] == "trouble"]
        assert (done.returncode == ExitStatus.TROUBLE) == bool(bad)
        return found, bad

    return run


@pytest.fixture
def connection(broker):
    user_key()
    return Connection.load(broker.connection_file)


def at(connection, *routers):
    return connection._replace(router=routers, publisher=routers)


def plain(address):
    return Connection((address,), (address,), None, "a journal", 1, "facility", __version__)


def test_where_all_is_well_nothing_is_in_the_way(doctor, connection):
    found, bad = doctor(connection)
    assert bad == []
    verdicts = {each["check"].split(" ")[0]: each["verdict"] for each in found}
    assert verdicts.items() >= {"versions": "ok", "connection": "ok", "key": "ok", "port": "ok", "broker": "ok"}.items()
    assert verdicts["clock"] == verdicts["spool"] == "ok"


def test_people_get_a_line_each_and_the_command_below(broker, run_theorbo, isolation):
    done = run_theorbo("doctor", "--broker", broker.connection_file, "--spool-root", "/proc")
    assert done.returncode == ExitStatus.TROUBLE
    lines = done.stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("TROUBLE  spool /proc: "))
    assert lines[place + 1].startswith("         fix: export THEORBO_SPOOL_ROOT=")
    assert lines[-1].endswith("spool /proc") or "spool /proc" in lines[-1]


def test_a_wrong_host_name_is_named(doctor, connection):
    _, (bad,) = doctor(at(connection, UNRESOLVABLE))
    assert bad["check"] == "name no-such-host.invalid"
    assert "cannot be resolved" in bad["text"]
    assert "getent hosts no-such-host.invalid" in bad["fix"]


def test_a_blocked_port_is_named(doctor, connection):
    with blackhole() as address:
        _, (bad,) = doctor(at(connection, address))
    assert bad["check"] == f"port {address}"
    assert f"no answer within {DOCTOR_S:g} s: a firewall drops it" in bad["text"]
    assert f"--add-port={address.rpartition(':')[2]}/tcp" in bad["fix"]


def test_a_broker_that_does_not_run_is_named(doctor, connection):
    with dead() as address:
        _, (bad,) = doctor(at(connection, address))
    assert "nobody listens there" in bad["text"]
    assert f"# on {connection.host}" in bad["fix"]


def test_an_address_that_says_nothing_or_is_no_broker_is_named(doctor, connection):
    with mute() as address:
        _, (bad,) = doctor(at(connection, address))
    assert "accepts connections and says nothing" in bad["text"]
    with other_service() as address:
        _, (bad,) = doctor(at(connection, address))
    assert "what listens there is no broker" in bad["text"]


def test_where_one_address_answers_the_others_are_only_warned_of(doctor, connection):
    with dead() as address:
        both = connection._replace(
            router=(address, *connection.router), publisher=(address, *connection.publisher)
        )  # fmt: skip
        found, bad = doctor(both)
    assert bad == []
    assert any(each["verdict"] == "warning" and "another address answers" in each["text"] for each in found)


def test_loopback_addresses_of_another_machine_are_of_no_interest_here(doctor, connection):
    elsewhere = (*connection.router, UNRESOLVABLE)
    found, _ = doctor(connection._replace(host="facility", router=elsewhere, publisher=elsewhere))
    assert any(each["check"].startswith("port tcp://127.") for each in found)  # there is no other
    with dead() as address:
        port = address.rpartition(":")[2]
        both = (address, f"tcp://[2001:db8::1]:{port}")
        found, _ = doctor(connection._replace(host="facility", router=both, publisher=both))
    assert not any("127." in each["check"] for each in found)


def test_a_name_of_several_addresses_is_well_where_one_answers(doctor, connection):
    """`localhost` is ::1, too, where this broker does not listen; and the clock is told once."""
    port = connection.router[0].rpartition(":")[2]
    live = connection.publisher[0].rpartition(":")[2]
    names = (f"tcp://localhost:{port}", connection.router[0], UNRESOLVABLE)
    lives = (f"tcp://localhost:{live}", connection.publisher[0], UNRESOLVABLE)
    found, bad = doctor(connection._replace(router=names, publisher=lives))
    assert bad == []
    assert len([each for each in found if each["check"] == "clock"]) == 1


def test_trouble_with_the_clock_stays_trouble_where_another_address_is_dead(doctor):
    with FakeBroker(ahead_s=3600.0) as fake, dead() as address:
        both = plain(fake.address)._replace(router=(address, fake.address), publisher=(address, fake.address))
        _, (bad,) = doctor(both)
    assert bad["check"] == "clock"


def test_a_wrong_key_of_the_broker_and_of_the_user_are_told_apart(doctor, connection):
    other, _ = zmq.curve_keypair()
    _, (bad,) = doctor(connection._replace(public_key=other.decode()))
    assert "another key than the connection file says" in bad["text"]
    assert "copy the connection file" in bad["fix"]
    public, secret = (half.decode() for half in zmq.curve_keypair())
    KeyPair(public, secret).save(key_file())
    _, (bad,) = doctor(connection)
    assert "key is not on the broker's list" in bad["text"]
    assert f"echo '{getpass.getuser()} {public}' >> authorized_keys" in bad["fix"]


def test_what_puts_a_key_on_the_list_writes_it_as_it_is(isolation):
    """Whatever a shell may think of $, ! or & in it."""
    key = "a$IO!cLl&jN`*x[0-9]{1,2}<>()"
    (found,) = on_talk("tcp://b:1", Talk("key"), "1", "file", "lab7", "o'hara", key)
    subprocess.run(["bash", "-c", found.fix], cwd=isolation, check=True)
    assert (isolation / "authorized_keys").read_text() == f"o'hara {key}\n"


def test_a_key_that_is_missing_readable_by_others_or_broken_is_named(doctor, connection):
    key_file().chmod(0o644)
    _, (bad,) = doctor(connection)
    assert bad["fix"] == f"chmod 600 {key_file()}"
    KeyPair("x" * 40, "y" * 40).save(key_file())
    _, (bad,) = doctor(connection)
    assert "two halves do not belong together" in bad["text"]
    key_file().write_text("not a key")
    _, (bad,) = doctor(connection)
    assert "is no key file" in bad["text"]
    assert bad["fix"].startswith(f"mv {key_file()} ")
    key_file().unlink()
    _, (bad,) = doctor(connection)
    assert "there is none" in bad["text"]
    assert not key_file().exists(), "nothing is changed"


def test_what_cannot_even_be_looked_at_is_named(doctor, connection, isolation, monkeypatch):
    """As a home directory is for which one has no right; here nobody has, not even root."""
    nowhere = isolation / ("x" * 300) / "key.json"
    monkeypatch.setenv(KEY_VARIABLE, str(nowhere))
    found, _ = doctor(connection, "--spool-root", nowhere.parent)
    bad = {each["check"]: each["text"] for each in found if each["verdict"] == "trouble"}
    assert bad == {
        f"key {nowhere}": "cannot be read: File name too long",
        f"spool {nowhere.parent}": "cannot write there: File name too long",
    }


def test_another_version_of_the_protocol_is_named_in_the_file_and_on_the_wire(doctor, connection):
    _, (bad,) = doctor(connection._replace(protocol=7, version="9.9"))
    assert "speaks protocol version 7, this side version 1" in bad["text"]
    assert bad["fix"] == "pip install 'theorbo-task-runtime[agent]==9.9'"
    with FakeBroker(protocol=7) as fake:
        _, (bad,) = doctor(plain(fake.address))
    assert "peer speaks protocol version 7" in bad["text"]
    assert "pip install" in bad["fix"]


def test_mixed_versions_that_understand_one_another_are_a_warning(doctor):
    with FakeBroker(version="0.0.7") as fake:
        found, bad = doctor(plain(fake.address))
    assert bad == []
    (warned,) = [each for each in found if each["check"] == "version of the broker"]
    assert (warned["verdict"], warned["fix"]) == ("warning", "pip install 'theorbo-task-runtime[agent]==0.0.7'")


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_a_clock_off_by_an_hour_is_named(doctor, ahead_s):
    with FakeBroker(ahead_s=ahead_s) as fake:
        _, (bad,) = doctor(plain(fake.address))
    assert bad["check"] == "clock"
    assert f"1.0 h {'behind' if ahead_s > 0 else 'ahead of'} the broker's" in bad["text"]
    assert "chronyc makestep" in bad["fix"]


def test_a_refusal_is_told_in_the_brokers_words(doctor):
    with FakeBroker(code="busy") as fake:
        _, (bad,) = doctor(plain(fake.address))
    assert "the broker refuses: not today" in bad["text"]


def test_a_spool_that_cannot_be_written_is_named(doctor, connection, isolation):
    for root in ("/proc", isolation / "not there"):
        _, (bad,) = doctor(connection, "--spool-root", root)
        assert bad["check"] == f"spool {root}"
        assert "export THEORBO_SPOOL_ROOT=" in bad["fix"]
    open_to_all = isolation / "open"
    open_to_all.mkdir()
    import os

    (open_to_all / f"theorbo-{os.getuid()}").mkdir(mode=0o755)
    _, (bad,) = doctor(connection, "--spool-root", open_to_all)
    assert "has mode 0755, expected 0700" in bad["text"]


def test_looking_at_the_spool_leaves_nothing_there(doctor, connection, isolation):
    root = isolation / "roomy"
    root.mkdir()
    doctor(connection, "--spool-root", root)
    assert list(root.iterdir()) == []


def test_a_connection_file_that_is_missing_or_none_is_named(doctor, isolation):
    _, (bad,) = doctor(None)
    assert "no connection file" in bad["text"]
    (isolation / "examined.json").write_text("{}")
    _, (bad,) = doctor(None)
    assert "is no connection file" in bad["text"]


def test_without_any_broker_the_ways_out_are_named(run_theorbo):
    done = run_theorbo("doctor")
    assert done.returncode == ExitStatus.TROUBLE
    assert "no broker is named" in done.stdout
    assert "export THEORBO_BROKER=FILE" in done.stdout


@pytest.mark.parametrize(("python", "text"), [("/nowhere/python", "No such file"), ("/bin/ls", "it is no Python")])
def test_a_python_that_is_none_is_named(doctor, connection, python, text):
    _, (bad,) = doctor(connection, "--python", python)
    assert bad["check"] == f"Python {python}"
    assert text in bad["text"]


@pytest.mark.parametrize(
    ("offset_s", "trip_s", "verdict"),
    [(0.0, 0.001, "ok"), (1.9, 0.001, "ok"), (-2.5, 0.001, "warning"), (2.5, 1.5, "ok"), (61.0, 0.001, "trouble")],
)
def test_a_clock_is_judged_as_exactly_as_the_round_trip_allows(offset_s, trip_s, verdict):
    assert on_clock(offset_s, trip_s).verdict == verdict


@pytest.mark.parametrize(
    ("spool", "verdict", "text"),
    [
        (Spool("/s", "", 20 * GIB, "xfs"), "ok", "20.0 GiB free"),
        (Spool("/s", "", 20 * GIB, "nfs4"), "trouble", "network file system (nfs4)"),
        (Spool("/s", "", 20 * GIB, "tmpfs"), "warning", "in memory"),
        (Spool("/s", "", 10 * MIB, "xfs"), "trouble", "only 10 MiB are free"),
        (Spool("/s", "", 500 * MIB, "xfs"), "warning", "500 MiB are free"),
        (Spool("/s", "cannot", 0, ""), "trouble", "cannot"),
    ],
)
def test_the_place_of_spools_is_judged(spool, verdict, text):
    (found,) = on_spool(spool, 7)
    assert (found.verdict, text in found.text) == (verdict, True)


def test_versions_limits_and_launchers_are_judged():
    same = {"theorbo-schemas": "1.2", "theorbo-observer": "1.2"}
    assert on_versions(same, "3.11", "4.3.5", curve=True).verdict == "ok"
    assert on_versions(same, "3.11", "4.3.5", curve=False).verdict == "trouble"
    mixed = on_versions({**same, "theorbo-schemas": "1.10"}, "3.11", "4.3.5", curve=True)
    assert (mixed.verdict, mixed.fix) == ("warning", "pip install 'theorbo-observer==1.10'")
    assert [each.verdict for each in on_limits(-1, 5000)] == ["ok"]
    assert [each.fix.split("    ")[0] for each in on_limits(256, 100)] == ["ulimit -n 1024", "ulimit -u 1024"]
    assert on_launchers({"mpiexec": None, "srun": "/bin/srun"}, "").verdict == "ok"
    assert on_launchers({"mpiexec": None, "srun": None}, "").verdict == "warning"
    assert on_launchers({"mpiexec": "/bin/mpiexec", "srun": None}, "4711").verdict == "trouble"


def test_the_last_line_names_what_is_in_the_way():
    found = [*on_limits(256, -1), *on_spool(Spool("/s", "cannot"), 7)]
    assert summary(found) == "trouble: spool /s, 1 warning"
    assert summary(found[:1]) == "all well, 1 warning"
    with contextlib.suppress(IndexError):
        assert summary([]) == "all well"
