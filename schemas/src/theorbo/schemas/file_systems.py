"""Which file system holds a path: journals and spools need a local one. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.ceph", "fuse.davfs2", "fuse.glusterfs", "fuse.sshfs",
    "fuse.s3fs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2",
    "smb3", "smbfs", "wekafs",
})  # fmt: skip
"""Types as in /proc/self/mountinfo. On these, locks, the shared memory of SQLite's write-ahead log, and appends of
several processes to one file are not to be relied on, and a commit is not surely on disk."""


def file_system(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds `path`, or an empty text if that cannot be found out."""
    device = os.stat(path).st_dev  # noqa: PTH116 - the number is what counts
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
