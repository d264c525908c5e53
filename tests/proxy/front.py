"""A broker as somebody sees it from behind a bad network: a connection file that leads through two proxies."""

from __future__ import annotations

from pathlib import Path

from tests.proxy.proxy import Proxy
from theorbo.schemas.connection import Connection


class Front:
    """Proxies for both of a broker's sockets. A command to both: `front.each(Proxy.half_open)`."""

    def __init__(self, connection_file: Path, place: Path) -> None:
        """Write a connection file at `place` for whoever is to come this way."""
        self._behind = connection_file
        connection = Connection.load(connection_file)
        self.router = Proxy(connection.router[0])
        self.publisher = Proxy(connection.publisher[0])
        self.connection_file = place
        connection._replace(router=(self.router.address,), publisher=(self.publisher.address,)).save(place)

    @property
    def proxies(self) -> tuple[Proxy, Proxy]:
        """Both."""
        return self.router, self.publisher

    def half_open(self) -> None:
        """See `Proxy.half_open`."""
        for proxy in self.proxies:
            proxy.half_open()

    def refuse(self) -> None:
        """See `Proxy.refuse`."""
        for proxy in self.proxies:
            proxy.refuse()

    def cut(self) -> None:
        """See `Proxy.cut`."""
        for proxy in self.proxies:
            proxy.cut()

    def delay(self, up_s: float = 0.0, down_s: float = 0.0) -> None:
        """See `Proxy.delay`."""
        for proxy in self.proxies:
            proxy.delay(up_s, down_s)

    def pass_all(self) -> None:
        """See `Proxy.pass_all`."""
        for proxy in self.proxies:
            proxy.pass_all()

    def follow(self) -> None:
        """Lead to where the broker is now."""
        connection = Connection.load(self._behind)
        self.router.lead_to(connection.router[0])
        self.publisher.lead_to(connection.publisher[0])

    def close(self) -> None:
        """Close both."""
        for proxy in self.proxies:
            proxy.close()
