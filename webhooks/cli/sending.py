"""Sending deliveries to a URL, as the vendor does."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from original_async.signature import SIGNATURE_HEADER
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from rewards_core.version import USER_AGENT

if TYPE_CHECKING:
    from rewards_core.operations import Event


def delivery_headers(event: Event, signature: str | None) -> dict[str, str]:
    """Return the headers to send a stored event with: this signature, and the hints it arrived with."""
    hints = {
        SIGNATURE_HEADER: signature,
        "x-webhook-correlation-id": event.correlation_id,
        "x-webhook-attempt": event.attempt,
    }
    headers = {name: value for name, value in hints.items() if value is not None and value.isascii()}
    return {**headers, "Content-Type": "application/json", "User-Agent": USER_AGENT}


def _trust(cacert: Path | None, url: str) -> ssl.SSLContext | bool:
    """Return what verifies a URL's certificate: the authorities of a file, or those of this system."""
    if cacert is None:
        return True
    if not url.startswith("https:"):
        raise ValueError("--cacert: only an https URL has a certificate. Give one with --to, or remove --cacert.")
    try:
        return ssl.create_default_context(cafile=cacert)
    except (OSError, ssl.SSLError) as problem:
        raise ValueError(
            f"--cacert: {cacert} cannot be used ({type(problem).__name__}). Give a PEM file with the certificates to trust."
        ) from None


class DeliverySender:
    """Post deliveries to one URL, and end the command according to the worst answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._worst = 200

    async def send(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post a delivery, and return the status of the answer; exit if there is none."""
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                self._worst = max(self._worst, answer.status)
                return answer.status
        except aiohttp.ClientConnectorCertificateError as problem:
            fail(
                f"The certificate of {self._url} is not trusted ({problem.certificate_error}). Nothing was sent. Give the "
                "certificate of its authority with --cacert.",
                Exit.UNAVAILABLE,
            )
        except aiohttp.ClientConnectorError as problem:
            number = problem.os_error.errno or 0
            why = os.strerror(number) if number > 0 else problem.os_error.strerror
            fail(
                f"No connection to {self._url}: {why}. Nothing was sent. Start the "
                "listener and wait until it is ready, or give another URL with --to.",
                Exit.UNAVAILABLE,
            )
        except (aiohttp.ClientError, OSError, TimeoutError):
            fail(
                f"The connection to {self._url} broke before an answer came. The event may have arrived. To send it again is "
                "safe: a listener keeps it once.",
                Exit.UNAVAILABLE,
            )

    def check_answers(self, after: str = "The vendor would send it again.") -> None:
        """Exit if an answer was not 2xx; `after` is the sentence about an event that was not stored."""
        if self._worst >= 500:
            fail(f"{self._url} did not store the event (HTTP {self._worst}). {after}", Exit.UNAVAILABLE)
        if self._worst >= 300:
            fail(f"{self._url} refused the event (HTTP {self._worst}). See the log of the service there.", Exit.REFUSED)


@asynccontextmanager
async def sender(url: str, cacert: Path | None) -> AsyncIterator[DeliverySender]:
    """Open a `DeliverySender` to a URL; raises `ValueError` if `cacert` contains no certificate, or the URL is not https."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_trust(cacert, url))) as session:
        yield DeliverySender(session, url)
