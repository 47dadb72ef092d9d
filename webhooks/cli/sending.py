"""How commands send deliveries to a URL, as the vendor does, and say what was answered."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from original_async.signature import SIGNATURE_HEADER
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail

if TYPE_CHECKING:
    from rewards_core.operations import Event


def delivery_headers(event: Event, signature: str | None) -> dict[str, str]:
    """Return the headers with which a kept event is sent on: this signature, and the hints that came with it."""
    hints = {
        SIGNATURE_HEADER: signature,
        "x-webhook-correlation-id": event.correlation_id,
        "x-webhook-attempt": event.attempt,
    }
    headers = {name: value for name, value in hints.items() if value is not None and value.isascii()}
    return {**headers, "Content-Type": "application/json"}


def trust(cacert: Path | None, url: str) -> ssl.SSLContext | bool:
    """Return what verifies the certificate of a URL: the authorities of a file, or those of this system.

    Raises:
        ValueError: the file holds no certificate, or the URL is not https.
    """
    if cacert is None:
        return True
    if not url.startswith("https:"):
        raise ValueError("--cacert: only an https URL has a certificate to verify. Give one with --to, or leave --cacert out.")
    try:
        return ssl.create_default_context(cafile=cacert)
    except (OSError, ssl.SSLError) as problem:
        raise ValueError(
            f"--cacert: {cacert} cannot be used ({type(problem).__name__}). Give a PEM file with the certificates to trust."
        ) from None


class Sender:
    """Post deliveries to one URL, and end the command by the worst answer.

    Args:
        session: What to post with.
        url: Where to.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._worst = 200

    async def send(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a delivery, and return the status of the answer.

        Raises:
            typer.Exit: none came.
        """
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                self._worst = max(self._worst, answer.status)
                return answer.status
        except aiohttp.ClientConnectorCertificateError as problem:
            fail(
                f"The certificate of {self._url} is not trusted here ({problem.certificate_error}). Nothing was sent. Give the "
                "certificate of its authority with --cacert.",
                Exit.UNAVAILABLE,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            fail(
                f"No answer came from {self._url} ({type(problem).__name__}). The event may not have arrived. Start the "
                "listener, or name another with --to.",
                Exit.UNAVAILABLE,
            )

    def judge(self, after: str = "The vendor would send it again.") -> None:
        """End the command if an answer was not 2xx.

        Args:
            after: What is said of an event that was not kept.

        Raises:
            typer.Exit: as said.
        """
        if self._worst >= 500:
            fail(f"{self._url} did not keep the event (HTTP {self._worst}). {after}", Exit.UNAVAILABLE)
        if self._worst >= 300:
            fail(f"{self._url} refused the event (HTTP {self._worst}). See the log of what runs there.", Exit.REFUSED)


@asynccontextmanager
async def sender(url: str, cacert: Path | None) -> AsyncIterator[Sender]:
    """Open what posts deliveries to a URL.

    Raises:
        ValueError: as `trust`.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust(cacert, url))) as session:
        yield Sender(session, url)
