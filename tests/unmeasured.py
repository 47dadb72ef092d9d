"""Processes whose coverage is of no use: they are killed before it is written, or run what other tests measure."""

from __future__ import annotations

import os
from collections.abc import Mapping


def unmeasured(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which coverage does not slow a process down."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_PROCESS_")}
