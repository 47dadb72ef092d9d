"""Reloading on SIGHUP: keys and certificate, all of them or none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from webhooks.cli.sources import ReloadableSource, by_path

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings

logger = logging.getLogger("webhooks.listener")


class Reloadable:
    """The sources with their keys, and the TLS context with its certificate.

    Args:
        settings: The settings that name their files.

    Attributes:
        sources: The sources.
        tls: The TLS context; None for plain http.

    Raises:
        ValueError: a key or the certificate is missing or invalid, or two sources share a scope.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._tls_settings = settings.tls
        self.sources = [ReloadableSource(spec) for spec in settings.sources]
        by_path(self.sources)
        self.tls = None if settings.tls is None else settings.tls.context()

    def reload(self) -> bool:
        """Reload everything, and return True; if anything is invalid, log why, change nothing, and return False."""
        try:
            fresh = [ReloadableSource(source.spec) for source in self.sources]
            if self._tls_settings is not None and self.tls is not None:
                self._tls_settings.load_into(self.tls)
        except ValueError as problem:
            logger.error("could not reload; the old keys and certificate stay in use: %s", problem)  # noqa: TRY400 - one line
            return False
        for source, new in zip(self.sources, fresh, strict=True):
            source.replace_keys(new)
        logger.info("reloaded keys and certificate")
        return True
