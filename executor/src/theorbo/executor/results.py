"""The attachments of results, as bytes."""

from __future__ import annotations

from theorbo.schemas.errors import UsageError
from theorbo.schemas.events import Part
from theorbo.schemas.fetching import attachment_of, chunks
from theorbo.schemas.link import open_link


def fetched(broker: str | None, execution: bytes, part: Part) -> bytes:
    """The bytes of the attachment that `part` names, from the broker of the connection file `broker`.

    Raises UsageError if the part is no attachment, and as `theorbo.schemas.fetching.chunks`.
    """
    if not part.sha256 or part.size is None:
        raise UsageError(f"part {part.name!r} ({part.mime}) is no attachment; its content is in the event itself")
    link = open_link(broker)
    try:
        return b"".join(chunks(link, execution, attachment_of(part.sha256, part.size)))
    finally:
        link.close()
