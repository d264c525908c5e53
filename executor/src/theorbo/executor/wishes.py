"""What people and other threads want of a running Executor, handed to its loop. Safe to call from anywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from types import FrameType

from theorbo.executor.values import Wanted, Wish

_SIGNALS = {
    signal.SIGINT: (Wish.INTERRUPT, "interrupted (Ctrl-C)"),
    signal.SIGTERM: (Wish.CANCEL, "the Executor received SIGTERM"),
    signal.SIGHUP: (Wish.LET_GO, "the Executor received SIGHUP"),
}


class Wishes:
    """A queue with a descriptor that is readable while there is something in it."""

    def __init__(self) -> None:
        self._queue: deque[Wanted] = deque()
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._closed = False
        self.descriptor, self._bell = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._bell, False)

    def add(self, wish: Wish, reason: str) -> None:
        """Tell the loop; from any thread or signal handler. Too late, it does nothing."""
        with self._lock, contextlib.suppress(BlockingIOError):  # a full pipe is readable anyway
            if not self._closed:
                self._queue.append(Wanted(wish, reason))
                os.write(self._bell, b"\0")

    def take(self) -> list[Wanted]:
        """All that was wanted since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def close(self) -> None:
        """Give the descriptors back."""
        with self._lock:
            self._closed = True
            os.close(self.descriptor)
            os.close(self._bell)

    @contextlib.contextmanager
    def from_signals(self) -> Iterator[None]:
        """While this holds, SIGINT, SIGTERM and SIGHUP are wishes, as far as nobody else handles them.

        Does nothing outside of the main thread, for signals come only there.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            self.add(*_SIGNALS[signal.Signals(number)])

        ours = [s for s in _SIGNALS if signal.getsignal(s) in (signal.SIG_DFL, signal.default_int_handler)]
        before = {number: signal.signal(number, handle) for number in ours}
        # A signal that comes just before the loop waits would be seen only after the wait: this ends it.
        wakeup = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
