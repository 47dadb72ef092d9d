"""Run a sandbox from the command line: `python -m vendor_sandboxes original --port 9400`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import fields

from vendor_sandboxes.enkash import CLIENT_ID, CLIENT_SECRET, PASSWORD, USERNAME, EnkashSandbox
from vendor_sandboxes.options import EnkashOptions, OriginalOptions, SandboxOptions
from vendor_sandboxes.original import API_KEY, API_SECRET, APP_UID, COLLECTIONS, REWARDS, WEBHOOK_KEYS, OriginalSandbox

if TYPE_CHECKING:
    from vendor_sandboxes.server import Sandbox


_FAULTS = "A fault is off by default. Give it a probability P from 0 to 1, such as --p503 0.1, or no P for always."


def _key(text: str) -> tuple[str, str]:
    key_id, _, secret = text.partition(":")
    if not key_id or not secret:
        raise argparse.ArgumentTypeError("give a webhook key as ID:SECRET")
    return key_id, secret


def _add_options(parser: argparse.ArgumentParser, cls: type[SandboxOptions]) -> None:
    for attribute in fields(cls):
        parser.add_argument(f"--{attribute.name.replace('_', '-')}", default=attribute.default, **attribute.metadata["argument"])


def parser_of_sandboxes() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m vendor_sandboxes", description="Simulate a vendor, with faults.")
    vendors = parser.add_subparsers(dest="vendor", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", default="127.0.0.1", help="address to listen on")
    common.add_argument("--seed", type=int, default=0, help="equal seeds give equal uids and faults")

    original = vendors.add_parser(
        "original",
        parents=[common],
        help="Original: rewards, assets, webhooks",
        description="Simulate Original: rewards, assets and webhooks. The first line of output has the URL.",
        epilog=_FAULTS,
    )
    add = original.add_argument
    add("--port", type=int, default=9400, help="port to listen on, 0 for any")
    add("--api-key", default=API_KEY, help="API key that the sandbox accepts")
    add("--api-secret", default=API_SECRET, help="API secret that the sandbox accepts")
    add("--app-uid", default=APP_UID, help="uid of the app that owns the API key")
    add("--reward", action="append", dest="rewards", metavar="UID", help="uid of a reward contract; may be repeated")
    collection_help = "uid of a deployed collection with editable assets; may be repeated"
    add("--collection", action="append", dest="collections", metavar="UID", help=collection_help)
    add("--webhook-url", metavar="URL", help="where webhooks are sent")
    key_help = "key that signs webhooks; may be repeated"
    add("--webhook-key", action="append", type=_key, dest="webhook_keys", metavar="ID:SECRET", help=key_help)
    add("--webhook-attempts", type=int, default=8, metavar="N", help="maximum number of attempts to deliver an event")
    backoff_help = "wait before the second attempt; doubles with each further attempt"
    add("--webhook-backoff", type=float, default=0.1, metavar="SECONDS", help=backoff_help)
    _add_options(original, OriginalOptions)

    enkash = vendors.add_parser(
        "enkash",
        parents=[common],
        help="EnKash: tokens, coin events, allocations, balances",
        description="Simulate EnKash: tokens, coin events, allocations and balances. The first line of output has the URL.",
        epilog=_FAULTS,
    )
    add = enkash.add_argument
    add("--port", type=int, default=9500, help="port to listen on, 0 for any")
    add("--client-id", default=CLIENT_ID, help="client id that the sandbox accepts")
    add("--client-secret", default=CLIENT_SECRET, help="client secret that the sandbox accepts")
    add("--username", default=USERNAME, help="user name that the sandbox accepts")
    add("--password", default=PASSWORD, help="password that the sandbox accepts")
    add("--funds", type=int, metavar="COINS", help="total of coins that can be given, unlimited by default")
    _add_options(enkash, EnkashOptions)
    return parser


def build(arguments: Sequence[str]) -> Sandbox:
    """Return the sandbox of a command line.

    Raises:
        SystemExit: the command line is wrong.
    """
    parser = parser_of_sandboxes()
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    try:
        if options.pop("vendor") == "enkash":
            return EnkashSandbox(**options)
        options["webhook_keys"] = dict(options["webhook_keys"] or WEBHOOK_KEYS)
        options["rewards"] = options["rewards"] or REWARDS
        options["collections"] = options["collections"] or COLLECTIONS
        return OriginalSandbox(**options)
    except (ValueError, ModuleNotFoundError) as error:
        parser.error(str(error))


async def _serve(sandbox: Sandbox) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with sandbox:
        line = sandbox.url if sys.stdout.isatty() else json.dumps({"url": sandbox.url, "ready": True})
        print(line, flush=True)  # noqa: T201 - the first line is the address of the sandbox
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sandbox until SIGINT or SIGTERM; return 1 if it cannot listen."""
    try:
        asyncio.run(_serve(build(sys.argv[1:] if arguments is None else arguments)))
    except OSError as error:
        print(f"Cannot listen: {error}. Give another --host or --port.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
