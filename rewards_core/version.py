"""The version of this distribution, which the build, both commands and the clients read here."""

from __future__ import annotations

import sys

VERSION = "0.2.0"
"""The version of this library."""
USER_AGENT = f"rewards-async/{VERSION} (Python {sys.version_info.major}.{sys.version_info.minor}; {sys.platform})"
"""The User-Agent of requests to vendors, and of deliveries that the listener passes on."""
