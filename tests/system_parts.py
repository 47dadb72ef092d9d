"""Programs of the system that tests need and `tests/install_system_parts.sh` installs."""

from __future__ import annotations

import os
import shutil

import pytest


def system_program(name: str) -> str:
    """Return the path of a program; without it the test fails where it could be installed, and is skipped elsewhere."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")  # where some systems keep servers from people
    if path is None:
        missing = f"this machine has no {name}"
        if os.geteuid() == 0 and shutil.which("apt-get"):
            pytest.fail(f"{missing}; tests/install_system_parts.sh installs it")
        pytest.skip(f"{missing}, and the tests may not install it")
    return path
