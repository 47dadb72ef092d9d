"""The version, and what the distribution says about itself to those whom it asks."""

from __future__ import annotations

import re
import subprocess
import sys

from rewards_core.version import USER_AGENT, VERSION


def test_requests_name_the_version_and_neither_a_person_nor_a_machine() -> None:
    assert re.fullmatch(rf"rewards-async/{re.escape(VERSION)} \(Python 3\.\d+; \w+\)", USER_AGENT)


def test_the_version_costs_no_import() -> None:
    code = "import sys; import rewards_core.version; print(*{'importlib.metadata', 'platform', 'email'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
