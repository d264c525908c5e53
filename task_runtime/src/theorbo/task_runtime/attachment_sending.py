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

    def under_way(self, size: int) -> list[Attachment]:
        """Those of this size; a refusal names no digest."""
        return [attachment for attachment in self._sending if attachment.size == size]

    def forget(self, attachment: Attachment) -> None:
        """It is given up."""
        self._missing.discard(attachment)
        self._sending.discard(attachment)
