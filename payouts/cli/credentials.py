"""What the command line reads from the environment, and what to set where something is missing or wrong."""

from __future__ import annotations

import os
from pathlib import Path

import enkash_async.settings
import original_async.settings
from original_async import OriginalWebhooks
from rewards_core.keys import webhook_keys


def check_environment(vendor: str) -> None:
    """Refuse an environment from which no client of a vendor can be made.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set, and shows no value.
    """
    if vendor == "original":
        original_async.settings.options_from(os.environ, {})
    else:
        enkash_async.settings.settings_from_env({})


def webhook_source(keys_file: Path | None, *, scope: str) -> OriginalWebhooks:
    """Return what verifies Original's webhooks, with the keys from a file or from the environment.

    Args:
        keys_file: Where the keys are; None reads `ORIGINAL_WEBHOOK_KEYS`.
        scope: That of the client.

    Raises:
        ValueError: the keys or the app's uid are missing or wrong; the text says what to set, and shows no value.
    """
    app_uid = original_async.settings.app_uid_from(os.environ)
    return OriginalWebhooks(webhook_keys(keys_file, original_async.settings.WEBHOOK_KEYS), scope=scope, app_uid=app_uid)
