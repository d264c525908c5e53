from __future__ import annotations

import uuid

from theorbo.executor.execution_id import new_execution


def test_the_example_of_rfc_9562_is_made():
    """Appendix A.6: a UUIDv7 of 22 February 2022, 14:22:22 in UTC-5."""
    random = (0xCC3 << 68 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    made = new_execution(unix_ms=0x017F22E279B0, random_bytes=random)
    assert made.hex() == "017f22e279b07cc398c4dc0c0c07398f"


def test_version_and_variant_are_those_of_uuid_7():
    made = uuid.UUID(bytes=new_execution())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_ids_sort_by_time():
    assert new_execution(unix_ms=1, random_bytes=b"\xff" * 10) < new_execution(unix_ms=2, random_bytes=bytes(10))


def test_ids_of_the_same_moment_differ():
    assert new_execution(unix_ms=1) != new_execution(unix_ms=1)
