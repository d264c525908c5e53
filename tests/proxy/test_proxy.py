"""The proxy itself, between a plain TCP client and an echo; then between a client of ours and a real broker."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy.proxy import CHUNK_BYTES, QUEUE_CHUNKS, Proxy, Way
from theorbo.schemas.frames import Command, Header
from theorbo.schemas.link import Link

DEADLINE_S = 10.0


class Echo:
    """Sends back what it is sent. `received` counts."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.received += len(data)
                connection.sendall(data)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator:
    made = []

    def connect() -> socket.socket:
        host, _, port = proxy.address.removeprefix("tcp://").rpartition(":")
        made.append(socket.create_connection((host, int(port)), timeout=DEADLINE_S))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def answer(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (data := client.recv(65536)):
        found += data
    return found


def silent_for(client: socket.socket, seconds: float) -> bool:
    """Whether nothing comes, not even an end, for so long."""
    client.settimeout(seconds)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(DEADLINE_S)
    return False


def has_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_as_they_are_both_ways(proxy, connect):
    client, content = connect(), bytes(range(256)) * 4096
    sender = threading.Thread(target=client.sendall, args=(content,))
    sender.start()
    assert answer(client, len(content)) == content
    sender.join()
    assert proxy.forwarded == {Way.UP: len(content), Way.DOWN: len(content)}


def test_a_connection_whose_client_closes_is_closed_upstream(proxy, connect, wait_for):
    connect().close()
    wait_for(lambda: proxy.accepted == 1 and proxy.connections == 0)


def test_a_delay_holds_in_its_own_direction_and_keeps_order(proxy, connect):
    client = connect()
    proxy.delay(up_s=0.3, down_s=0.2)
    begin = time.monotonic()
    client.sendall(b"one")
    client.sendall(b"two")
    assert answer(client, 6) == b"onetwo"
    assert 0.5 <= time.monotonic() - begin < 5
    proxy.delay(down_s=0.2)
    begin = time.monotonic()
    client.sendall(b"x")
    assert answer(client, 1) == b"x"
    assert time.monotonic() - begin >= 0.2


def test_a_cut_closes_all_and_new_ones_are_welcome(proxy, connect):
    first, second = connect(), connect()
    for client in (first, second):
        client.sendall(b"x")
        assert answer(client, 1) == b"x"
    proxy.cut()
    assert has_ended(first)
    assert has_ended(second)
    third = connect()
    third.sendall(b"y")
    assert answer(third, 1) == b"y"


def test_refused_means_refused_and_the_port_stays_ours(proxy, connect):
    client = connect()
    client.sendall(b"x")
    assert answer(client, 1) == b"x"
    proxy.refuse()
    assert has_ended(client)
    with pytest.raises(OSError) as refused:
        connect()
    assert refused.value.errno == errno.ECONNREFUSED
    with pytest.raises(OSError), socket.create_server(("127.0.0.1", int(proxy.address.rpartition(":")[2]))):
        pass
    proxy.pass_all()
    client = connect()
    client.sendall(b"back")
    assert answer(client, 4) == b"back"


def test_half_open_accepts_keeps_and_passes_nothing_until_it_is_over(proxy, echo, connect):
    before = connect()
    before.sendall(b"x")
    assert answer(before, 1) == b"x"
    proxy.half_open()
    meanwhile = connect()
    for client in (before, meanwhile):
        client.sendall(b"hello")
        assert silent_for(client, 0.2)
    assert echo.received == 1
    proxy.pass_all()
    assert [answer(client, 5) for client in (before, meanwhile)] == [b"hello", b"hello"]


def test_an_end_does_not_pass_while_half_open(proxy, connect, wait_for):
    client = connect()
    client.sendall(b"x")
    assert answer(client, 1) == b"x"
    proxy.half_open()
    client.close()
    assert proxy.connections == 1
    proxy.pass_all()
    wait_for(lambda: proxy.connections == 0)


def test_what_is_held_back_is_bounded(proxy, echo, connect):
    """The sender is stopped long before it has sent everything."""
    client = connect()
    client.sendall(b"x")
    assert answer(client, 1) == b"x"
    proxy.delay(up_s=1000)
    client.settimeout(0.5)
    sent = 0
    kernel_bytes = 12 * 1024 * 1024  # of both sockets' buffers: tcp_wmem and tcp_rmem at their largest
    bound = QUEUE_CHUNKS * CHUNK_BYTES + kernel_bytes
    with contextlib.suppress(TimeoutError):
        while sent < 2 * bound:
            sent += client.send(bytes(CHUNK_BYTES))
    assert sent < bound
    assert echo.received == 1


def test_a_throttle_lets_pass_so_much_and_no_more(proxy, connect):
    client = connect()
    proxy.throttle(200_000)
    begin = time.monotonic()
    client.sendall(bytes(60_000))
    client.sendall(b"x")
    assert len(answer(client, 60_001)) == 60_001
    assert time.monotonic() - begin >= 0.3


def test_garbling_flips_one_bit_once(proxy, connect):
    client = connect()
    proxy.garble(Way.UP)
    client.sendall(bytes(9))
    assert answer(client, 9) == bytes(4) + b"\x10" + bytes(4)
    client.sendall(bytes(9))
    assert answer(client, 9) == bytes(9)


def test_it_can_lead_elsewhere(proxy, echo, connect):
    other = Echo()
    try:
        proxy.lead_to(other.address)
        client = connect()
        client.sendall(b"x")
        assert answer(client, 1) == b"x"
        assert (echo.received, other.received) == (0, 1)
    finally:
        other.close()


def test_where_nobody_listens_behind_it_connections_end(proxy, echo, connect):
    echo.close()
    assert has_ended(connect())


# --- with a broker ---------------------------------------------------------------------------------


def test_a_client_speaks_curve_through_it_and_one_flipped_bit_ends_only_the_connection(front, wait_for):
    link = Link(front.connection_file)
    try:
        link.wait_welcome(DEADLINE_S)
        front.router.garble(Way.UP)
        accepted = front.router.accepted

        def welcomed_again() -> bool:
            link.tick()
            return any(message.command == Command.WELCOME for message in link.receive(0.1))

        wait_for(welcomed_again)
        assert front.router.accepted > accepted
        assert link.ask(Command.LIST, Header(), b'{"all":true,"limit":1}').command == Command.LISTING
    finally:
        link.close()
