"""The page about a 401 tells of every reason that a signature can be refused for."""

from __future__ import annotations

import re

from rewards_core import SignatureError
from tests.test_documents import TEXTS


def test_the_page_about_a_401_tells_of_every_reason() -> None:
    reasons = set(re.findall(r'`"(\w+)"`', SignatureError.__doc__ or ""))
    assert len(reasons) == 4
    assert set(re.findall(r"^\| `(\w+)` \|", TEXTS["docs/how-to/reading-a-401.md"], re.MULTILINE)) == reasons
