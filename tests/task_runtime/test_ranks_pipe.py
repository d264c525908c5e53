from __future__ import annotations

import os

from theorbo.task_runtime.ranks_pipe import RanksPipe, Said
from theorbo.task_runtime.wrapper import RANKS_PIPE


def test_a_rank_that_starts_just_when_the_last_one_has_gone_is_heard(tmp_path, monkeypatch):
    pipe, path = RanksPipe(tmp_path), tmp_path / RANKS_PIPE
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # the first rank has come and gone
    really_open = os.open

    def open_late(name, flags, *more, **keywords):
        if flags & os.O_ACCMODE == os.O_RDONLY and str(name) == str(path):
            monkeypatch.undo()
            writers.append(really_open(path, os.O_WRONLY | os.O_NONBLOCK))  # as a thin parent does
            os.write(writers[0], b"started 1 12 11 11 5\nended 1 0")
        return really_open(name, flags, *more, **keywords)

    writers = []
    monkeypatch.setattr(os, "open", open_late)
    former = pipe.descriptor
    assert pipe.read() == Said([], True)
    assert pipe.descriptor != former
    assert pipe.read() == Said(["started 1 12 11 11 5"], False)
    os.write(writers[0], b" 0\n")
    assert pipe.read() == Said(["ended 1 0 0"], False)
    os.close(writers[0])
