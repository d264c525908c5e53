"""Trying one address of a broker step by step, for `theorbo doctor`: where it ends tells what is wrong. Needs pyzmq."""

from __future__ import annotations

import os
import socket as system_socket
import time
from typing import TYPE_CHECKING

import zmq
from zmq.utils.monitor import recv_monitor_message

from theorbo.schemas import __version__
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.findings import OK, TROUBLE, Finding, Talk
from theorbo.schemas.frames import Command, Header, Message, decode_json, decode_message, encode_json
from theorbo.schemas.limits import DOCTOR_S, GOODBYE_LINGER_S
from theorbo.schemas.search import connect, host_of, resolved

if TYPE_CHECKING:
    from theorbo.schemas.connection import KeyPair

_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH


def look_up(address: str) -> tuple[list[str], Finding]:
    """What a name stands for. Takes as long as the name server."""
    check = f"name {host_of(address)}"
    began = time.monotonic()
    try:
        found = resolved(address)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        fix = f"getent hosts {host_of(address)}    # mend /etc/hosts or the name server, or correct the connection file"
        return [], Finding(check, TROUBLE, f"cannot be resolved: {problem}", fix)
    took = f"({(time.monotonic() - began) * 1000:.0f} ms)"
    return found, Finding(check, OK, f"stands for {', '.join(host_of(each) for each in found)} {took}")


def reach(address: str, broker_host: str) -> Finding:
    """Whether TCP gets there (or, of a broker of one's own, its socket is there)."""
    check = f"port {address}"
    began = time.monotonic()
    try:
        if address.startswith("ipc://"):
            with system_socket.socket(system_socket.AF_UNIX) as trying:
                trying.connect(address[len("ipc://") :])
        else:
            port = int(address.rpartition(":")[2])
            system_socket.create_connection((host_of(address), port), DOCTOR_S).close()
    except ConnectionRefusedError:
        fix = f"systemctl status theorbo-broker    # on {broker_host}; or its connection file is old: copy it again"
        return Finding(check, TROUBLE, "nobody listens there: the broker does not run, or has another port", fix)
    except (TimeoutError, system_socket.timeout):  # before Python 3.10 they are not the same
        opened = f"sudo firewall-cmd --permanent --add-port={address.rpartition(':')[2]}/tcp"
        fix = f"{opened} && sudo firewall-cmd --reload    # on {broker_host}"
        return Finding(
            check, TROUBLE, f"no answer within {DOCTOR_S:g} s: a firewall drops it, or the host is down", fix
        )
    except OSError as error:
        fix = f"ip route get {host_of(address)}    # a route from here to {broker_host} is missing"
        return Finding(check, TROUBLE, f"cannot be reached: {error.strerror or error}", fix)
    return Finding(check, OK, f"connected within {(time.monotonic() - began) * 1000:.1f} ms")


def talk(address: str, server_key: str | None, pair: KeyPair | None) -> Talk:
    """Say HELLO as an observer, and see how far it gets."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, int(GOODBYE_LINGER_S * 1000))
    if server_key and pair:
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = pair.public.encode()
        socket.curve_secretkey = pair.secret.encode()
    monitor = socket.get_monitor_socket()
    try:
        connect(socket, address)
        who = {"role": "observer", "version": __version__, "host": system_socket.gethostname(), "pid": os.getpid()}
        said_at = time.time()
        socket.send_multipart(Message(Command.HELLO, Header(request=1), encode_json(**who)).encode())
        found = _heard(socket, monitor, said_at)
        # One with another key closes the connection without a word, and so does whatever is no broker.
        return Talk("no_zmtp") if found.outcome == "server_key" and not _greets(address) else found
    finally:
        monitor.close()
        context.destroy(linger=int(GOODBYE_LINGER_S * 1000))


def _greets(address: str) -> bool:
    """Whether what listens there begins as ZMTP has it: libzmq does so before it has heard anything."""
    try:
        with system_socket.create_connection((host_of(address), int(address.rpartition(":")[2])), DOCTOR_S) as trying:
            return trying.recv(1) == b"\xff"
    except OSError:
        return False


def _heard(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], said_at: float) -> Talk:
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    deadline = time.monotonic() + DOCTOR_S
    connected = False
    while (left_s := deadline - time.monotonic()) > 0:
        poller.poll(int(left_s * 1000) + 1)
        if socket.poll(0):
            return _answered(socket, socket.recv_multipart(), said_at)
        while monitor.poll(0):
            event = recv_monitor_message(monitor)
            kind, value = int(event["event"]), int(event["value"])
            if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return Talk("key")
            if kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                return Talk("mechanism" if value == _MISMATCH else "no_zmtp")
            if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                return Talk("server_key")
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                said_at = time.time()  # only now HELLO goes its way
            connected = connected or kind == zmq.EVENT_CONNECTED
            if kind == zmq.EVENT_DISCONNECTED and connected:
                return Talk("no_zmtp")
    return Talk("silent")


def _answered(socket: zmq.Socket[bytes], frames: list[bytes], said_at: float) -> Talk:
    heard_at = time.time()
    trip_s = max(0.0, heard_at - said_at)
    try:
        message = decode_message(frames)
        fields = decode_json(message.body)
    except ProtocolError as error:
        return Talk("protocol", trip_s, words=str(error))
    offset_s = message.header.time - (said_at + heard_at) / 2 if message.header.time else 0.0
    if message.command != Command.WELCOME:
        code = "protocol" if fields.get("code") == "version" else "refused"
        return Talk(code, trip_s, words=str(fields.get("message")), offset_s=offset_s)
    problem = ""
    if socket.poll(int(trip_s * 1000) + 1):  # PONG follows at once where something hinders it
        behind = decode_message(socket.recv_multipart())
        problem = str(decode_json(behind.body).get("problem", "")) if behind.body else ""
    socket.send_multipart(Message(Command.BYE).encode())
    return Talk(
        "welcome", trip_s, version=str(fields.get("version")), broker=str(fields.get("broker")), offset_s=offset_s,
        words=problem,
    )  # fmt: skip
