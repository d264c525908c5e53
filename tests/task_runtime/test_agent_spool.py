from __future__ import annotations

import os

import pytest

from theorbo.schemas.limits import PUNCH_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.spool import make_spool
from theorbo.task_runtime.agent_spool import NodeSpool
from theorbo.task_runtime.spool_reader import SpoolFile

RANK = Source(SourceKind.RANK, 0)


class Core:
    """Of an agent's core just what giving back asks."""

    def __init__(self, file: SpoolFile) -> None:
        self.file = file

    def checkpoint(self):
        return {}

    def checkpoint_written(self):
        pass

    def to_free(self):
        yield self.file, 0, PUNCH_BYTES


@pytest.mark.parametrize("way", ["renamed", "linked"])
def test_of_another_file_in_the_same_place_nothing_is_given_back(tmp_path, way):
    """A program may replace its output by another file at any time; that one has not been read."""
    path = make_spool(tmp_path, "0" * 32)
    spool, output = NodeSpool(path, Source(SourceKind.AGENT, 0)), path / "rank-0.out"
    file = SpoolFile(output.name, RANK, Channel.STDOUT)
    spool.attach(Core(file), lambda _: None)
    content = b"a line\n" * (PUNCH_BYTES // 7 + 1)
    output.write_bytes(content)
    file.resize(len(content), output.stat().st_ino)
    other = tmp_path / "other"
    other.write_bytes(content)
    if way == "renamed":
        os.replace(other, output)
    else:
        output.unlink()
        output.symlink_to(other)
    spool.save()
    spool._inotify.close()
    assert output.read_bytes() == content
    assert file.freed == 0
