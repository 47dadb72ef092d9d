"""The built site: made once in a run of the tests, whichever process comes first."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build_site(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    shared = factory.getbasetemp() if "PYTEST_XDIST_WORKER" not in os.environ else factory.getbasetemp().parent
    folder = shared / "site"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "objects.inv").exists():
            command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--builder", "html"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run([*command, "docs", str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                (folder / "objects.inv").unlink(missing_ok=True)
                pytest.fail(done.stderr)
    return folder
