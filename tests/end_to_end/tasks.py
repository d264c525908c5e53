"""Tasks that do one thing each, for the tests of whole runs. Nothing but the standard library at the top."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings

from theorbo.task_runtime import Task, log, metric, progress, result


class Empty(Task):
    def _run(self):
        pass


class Lines(Task):
    class Parameters:
        def __init__(self, count: int = 20):
            self.count = count

    def _run(self):
        for number in range(self.parameters.count):
            log(f"line {number}")


class AnyBytes(Task):
    def _run(self):
        result({"blob": bytes(range(256)) * 1000, "text": "\x00\x1e\n;;;é\U0001f52d"}, summary="any bytes")


class Noisy(Task):
    """Text on stdout and stderr beside reports, whole lines and parts of lines, and bytes of no encoding."""

    def _run(self):
        for number in range(50):
            log(f"line {number}")
            os.write(2, b"error text %d\n" % number)
            os.write(1, b"out")
            os.write(1, b"put %d\r\n" % number)
        os.write(2, b'\xff\xfe no utf-8 \x1e{"kind":"log"}\n')
        os.write(2, b"no line end")


class LastWords(Task):
    def _run(self):
        log("last words")
        os.kill(os.getpid(), signal.SIGSEGV)


class Exit3(Task):
    def _run(self):
        sys.exit(3)


class Raises(Task):
    def _run(self):
        raise ValueError("no beam in shot 17")


class Sleeps(Task):
    """Sleeps and, if asked to, does not care about SIGTERM."""

    class Parameters:
        def __init__(self, seconds: float = 60.0, stubborn: bool = False):
            self.seconds = seconds
            self.stubborn = stubborn

    def _run(self):
        if self.parameters.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        log("asleep")
        time.sleep(self.parameters.seconds)


class Unsendable(Task):
    def _run(self):
        result({"good": [1, 2, 3], "bad": threading.Lock()}, summary="half of it")


class Everything(Task):
    """Every way to report something."""

    def _run(self):
        logging.getLogger("analysis").warning("from logging")
        warnings.warn("from warnings", stacklevel=1)
        progress(1, 2, unit="frames", text="half way")
        metric("rate", float("nan"), unit="Hz")
        result({"answer": 42}, summary="done")


def _report(name: str, count: int) -> None:
    for number in range(count):
        log(f"{name} {number}")


class InOrder(Task):
    def _run(self):
        for shot in range(100):
            progress(shot + 1, 100)
        metric("hit_rate", 0.12)
        log("done")
        result({"hits": [3, 17, 64]})


class FailsAfterOutput(Task):
    def _run(self):
        print("on stdout")
        print("on stderr", file=sys.stderr)
        log("in the log")
        raise ValueError("at last")


class Family(Task):
    """Threads, a fork, and children of multiprocessing, all reporting at once."""

    def _run(self):
        threads = [threading.Thread(target=_report, args=(f"thread-{n}", 200)) for n in range(4)]
        for thread in threads:
            thread.start()
        child = os.fork()
        if child == 0:
            _report("fork", 200)
            os._exit(0)
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            processes = [context.Process(target=_report, args=(f"{method}-{n}", 200)) for n in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
                assert process.exitcode == 0
        os.waitpid(child, 0)
        for thread in threads:
            thread.join()


class _Mpi(Task):
    use_mpi = True

    def _run(self):
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        log(f"rank {world.rank} of {world.size}")
        world.Barrier()
        if world.rank == 2:
            log("last words")
            self.die(MPI)
        world.Barrier()

    def die(self, MPI):
        pass


class MpiFine(_Mpi):
    pass


class MpiSegfault(_Mpi):
    def die(self, MPI):
        ctypes.string_at(0)


class MpiAbort(_Mpi):
    def die(self, MPI):
        MPI.COMM_WORLD.Abort(7)


class MpiRaises(_Mpi):
    def die(self, MPI):
        raise RuntimeError("detector is off")


class Ticks(Task):
    """Reports `tick 0`, `tick 1` … until a file is there, and keeps its own count of them beside it: what stands
    there was reported before, for the call had returned.
    """

    class Parameters:
        def __init__(self, until: str, every_s: float = 0.05):
            self.until = until
            self.every_s = every_s

    def _run(self):
        count = 0
        with open(self.parameters.until + ".count", "w") as own:
            while not os.path.exists(self.parameters.until):
                log(f"tick {count}")
                count += 1
                own.seek(0)
                own.write(str(count))
                own.flush()
                time.sleep(self.parameters.every_s)


class Halves(Task):
    """Two bursts of lines, each with a result; between them it waits for a file."""

    class Parameters:
        def __init__(self, gate: str, count: int = 100):
            self.gate = gate
            self.count = count

    def _run(self):
        self.half("first")
        while not os.path.exists(self.parameters.gate):
            time.sleep(0.01)
        self.half("second")

    def half(self, name: str) -> None:
        for number in range(self.parameters.count):
            log(f"{name} {number}")
        result({"half": name}, name=name, summary=f"{name} half")
        log(f"{name} done")
