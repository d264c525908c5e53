"""A peer dies while what it has sent fills the receiver's queue. libzmq must not take the receiver along.

In processes of their own, for libzmq aborts: what it asserts is not an exception.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from theorbo.schemas.limits import HEARTBEAT_S

PEER = """
import sys, time, zmq
kind, address = sys.argv[1:]
socket = zmq.Context().socket(zmq.XPUB if kind == "PUB" else zmq.DEALER)
socket.setsockopt(zmq.SNDHWM, 0)
if kind == "PUB":
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    assert socket.poll(20_000), "no subscription"
else:
    socket.connect(address)
for _ in range(100_000):
    socket.send_multipart([b"x" * 200] * 3)
print("sent", flush=True)
sys.stdin.readline()
"""

OBSERVER = """
import zmq
from theorbo.schemas.connection import Connection
from theorbo.schemas.limits import PUBLISH_QUEUE_MESSAGES
from theorbo.schemas.link import configure
def receiver(address):
    socket = zmq.Context().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, PUBLISH_QUEUE_MESSAGES)
    configure(socket, Connection((), (), None, "", 0, "", ""))
    socket.connect(address)
    socket.subscribe(b"")
    return socket, ""
"""

BROKER = """
from theorbo.broker.sockets import Sockets
def receiver(_address):
    sockets = Sockets("tcp://127.0.0.1:0", "", None, None)
    return sockets.router, sockets.router_address
"""

MAIN = """
import subprocess, sys, time, zmq
kind, peer, wait_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
bound = kind == "PUB"
if bound:
    process = subprocess.Popen([sys.executable, "-c", peer, kind, ""], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    socket, _ = receiver("tcp://127.0.0.1:" + process.stdout.readline().strip())
else:
    socket, address = receiver("")
    process = subprocess.Popen([sys.executable, "-c", peer, kind, address], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
assert process.stdout.readline() == "sent\\n"
assert socket.poll(10_000)
process.kill()
process.wait()
# With its queue full libzmq does not look at the connection, so this lasts. One of its timers would bring it down.
monitor.poll(1000 * wait_s)
received, deadline = 0, time.monotonic() + 20
while socket.poll(0) or not monitor.poll(10):
    assert time.monotonic() < deadline, "it never notices the death"
    if socket.poll(0):
        received += len(socket.recv_multipart()) > 2
print(received)
"""


@pytest.mark.parametrize(("receiver", "kind"), [(OBSERVER, "PUB"), (BROKER, "DEALER")], ids=["observer", "broker"])
def test_who_receives_more_than_it_reads_survives_the_death_of_the_sender(receiver, kind):
    done = subprocess.run(
        [sys.executable, "-c", receiver + MAIN, kind, PEER, str(4 * HEARTBEAT_S)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1000, "its queue was full"
