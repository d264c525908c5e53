"""Attachments on their way to the broker, as far as the agent has to know beyond `Delivery`. Pure."""

from __future__ import annotations

from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.frames import Command, Header, Message
from theorbo.schemas.records import Attachment


class AttachmentSending:
    """Those of which a part was sent, and those whose file is not there."""

    def __init__(self, execution: bytes) -> None:
        self._execution = execution
        self._missing: set[Attachment] = set()  # of which we asked whether the broker has them
        self._sending: set[Attachment] = set()

    def welcomed(self) -> None:
        """All that was asked is asked again."""
        self._missing.clear()

    def chunk(self, wanted: SendChunk, content: bytes | None) -> Message:
        """The message for a chunk with this content. None: there is no such file, or it is shorter; then
        the broker is asked whether it has the attachment already, from an earlier record.
        """
        attachment = wanted.attachment
        if content is None or len(content) != wanted.length:
            content = b""
            self._missing.add(attachment)
        self._sending.add(attachment)
        header = Header(execution=self._execution, first=wanted.offset, count=len(content), position=attachment.size)
        return Message(Command.ATTACH, header, bytes.fromhex(attachment.sha256) + content)

    def is_lost(self, attachment: Attachment, received: int) -> bool:
        """STORED: whether neither the broker nor the spool has all of it."""
        if received >= attachment.size:
            self._sending.discard(attachment)
            return False
        return attachment in self._missing

    def refused(self, size: int, sha256: str | None) -> list[Attachment]:
        """Those that a refusal is about: it tells the size and, where the bytes themselves are wrong, the digest."""
        return [each for each in self._sending if each.size == size and sha256 in (None, each.sha256)]

    def forget(self, attachment: Attachment) -> None:
        """It is given up."""
        self._missing.discard(attachment)
        self._sending.discard(attachment)
