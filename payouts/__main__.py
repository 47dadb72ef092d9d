"""Entry point of the command line, which needs the extra `cli`."""

from __future__ import annotations
