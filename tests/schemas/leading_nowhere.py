"""Addresses at which no broker answers, each for another reason."""

import contextlib
import socket

from tests.proxy.proxy import Proxy

UNRESOLVABLE = "tcp://no-such-host.invalid:5580"


@contextlib.contextmanager
def dead():
    """A port that refuses connections, and stays ours."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{held.getsockname()[1]}"


@contextlib.contextmanager
def blackhole():
    """An address behind a firewall that drops: what one sends there is not answered, not even a SYN.

    A listening socket whose backlog is full does that.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def mute():
    """An address that accepts connections, and says nothing."""
    with dead() as nobody, Proxy(nobody) as proxy:
        proxy.half_open()
        yield proxy.address


@contextlib.contextmanager
def other_service():
    """Something that closes a connection which does not speak its language."""
    with dead() as nobody, Proxy(nobody) as proxy:
        yield proxy.address
