"""What the HTML files share: they are self-contained, and text from outside is never markup."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from importlib.resources import files

from rewards_core.text import one_line

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def begin(title: str, style: str = "") -> str:
    """Return the beginning of a page, up to its sections."""
    common = files("payouts").joinpath("report.css").read_text("utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>{safe(title)}</title>\n<style>\n{common}{style}</style></head>\n<body><main>\n'
    )


END = "</main></body></html>\n"


def safe(text: object) -> str:
    """Return a text as one line of HTML without markup."""
    return html.escape(one_line(str(text), 1000), quote=True)


def name(text: str) -> str:
    """Return an id as HTML that breaks into lines only if it is very long."""
    return f'<span class="{"name" if len(text) <= 32 else "name long"}">{safe(text)}</span>'


def moment(seconds: float) -> str:
    """Return a time, in seconds since the epoch, in words."""
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %B %Y, %H:%M:%S} UTC"
