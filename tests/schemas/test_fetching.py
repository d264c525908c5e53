"""Fetching against a real broker is in tests/observer and tests/end_to_end."""

from __future__ import annotations

import pytest

from theorbo.schemas.errors import UsageError
from theorbo.schemas.fetching import attachment_of


@pytest.mark.parametrize("digest", ["", "ab", "../" + "a" * 61, "A" * 64])
def test_a_digest_that_is_none_is_refused(digest):
    with pytest.raises(UsageError, match="names an attachment"):
        attachment_of(digest, 1)
