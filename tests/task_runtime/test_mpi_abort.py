from __future__ import annotations

import pytest

from theorbo.task_runtime.mpi_abort import abort_code, aborted

MPICH = b"Abort(%d) on node 2 (rank 2 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, %d) - process 2\n"


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (b"words\n" + MPICH % (7, 7), 7),
        (MPICH % (-1, -1), 255),
        (b"application called MPI_Abort(comm=0x84000002, 9) - process 0", 9),
        (b"Traceback: MPI_Abort\n", None),
        (b"", None),
    ],
)
def test_the_librarys_last_words_are_understood(stderr, code):
    assert abort_code(stderr) == code


def test_ranks_without_such_words_are_not_accused(tmp_path):
    (tmp_path / "rank-0.err").write_bytes(b"x" * 100_000 + MPICH % (5, 5))
    (tmp_path / "rank-1.err").write_bytes(b"terminated\n")
    (tmp_path / "rank-2.err").write_bytes(MPICH % (0, 0))
    assert aborted(tmp_path, range(4)) == {0: 5}
