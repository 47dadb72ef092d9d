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

from vendor_sandboxes.enkash import CLIENT_ID, CLIENT_SECRET, PASSWORD, USERNAME, EnkashSandbox
from vendor_sandboxes.enkash_switches import EnkashSwitches
from vendor_sandboxes.faults import Faults, read_span, switches_of
from vendor_sandboxes.original import API_KEY, API_SECRET, APP_UID, REWARDS, WEBHOOK_KEYS, OriginalSandbox
from vendor_sandboxes.original_switches import OriginalSwitches

if TYPE_CHECKING:
    from vendor_sandboxes.serving import Sandbox


def _chance(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no probability: give a number from 0 to 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no duration: give seconds, 0 or more")
    return value


def _span(text: str) -> tuple[float, float] | None:
    try:
        return read_span(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _key(text: str) -> tuple[str, str]:
    key_id, _, secret = text.partition(":")
    if not key_id or not secret:
        raise argparse.ArgumentTypeError("a webhook key is given as ID:SECRET")
    return key_id, secret


def _add_switches(parser: argparse.ArgumentParser, cls: type[Faults]) -> None:
    for attribute in switches_of(cls):
        flag = f"--{attribute.name.replace('_', '-')}"
        kind, text = attribute.metadata["kind"], attribute.metadata["help"]
        if kind == "chance":
            parser.add_argument(
                flag, type=_chance, nargs="?", const=1.0, default=attribute.default, metavar="P", help=f"probability: {text}"
            )
        elif kind == "seconds":
            parser.add_argument(flag, type=_seconds, default=attribute.default, metavar="SECONDS", help=text)
        elif kind == "span":
            parser.add_argument(flag, type=_span, default=attribute.default, metavar="LOW:HIGH", help=text)
        elif kind == "number":
            parser.add_argument(flag, type=int, default=attribute.default, metavar="N", help=text)
        elif kind == "text":
            parser.add_argument(flag, default=attribute.default, metavar="TEXT", help=text)
        elif kind == "flag":
            parser.add_argument(flag, action="store_true", help=text)
        elif kind == "choice":
            parser.add_argument(flag, choices=attribute.metadata["words"], default=attribute.default, help=text)
        else:
            words = ", ".join(attribute.metadata["words"])
            parser.add_argument(
                flag,
                default=attribute.default,
                metavar="WORDS",
                help=f"{text}; one of {words}, or several joined by commas, of which each event draws one",
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vendor_sandboxes", description="Play a vendor, with faults.")
    vendors = parser.add_subparsers(dest="vendor", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", default="127.0.0.1", help="address to listen on")
    common.add_argument("--seed", type=int, default=0, help="equal seeds give equal uids and faults")

    original = vendors.add_parser("original", parents=[common], help="Original: rewards, allocations, claims, webhooks")
    original.add_argument("--port", type=int, default=9400, help="port to listen on, 0 for any")
    original.add_argument("--api-key", default=API_KEY)
    original.add_argument("--api-secret", default=API_SECRET)
    original.add_argument("--app-uid", default=APP_UID)
    original.add_argument(
        "--reward", action="append", dest="rewards", metavar="UID", help="uid of a reward contract; may be repeated"
    )
    original.add_argument("--webhook-url", metavar="URL", help="where webhooks go")
    original.add_argument(
        "--webhook-key",
        action="append",
        type=_key,
        dest="webhook_keys",
        metavar="ID:SECRET",
        help="key that signs webhooks; may be repeated",
    )
    original.add_argument("--webhook-attempts", type=int, default=8, help="how many times an event is sent before it is given up")
    original.add_argument(
        "--webhook-backoff",
        type=_seconds,
        default=0.1,
        metavar="SECONDS",
        help="wait before the second attempt; doubles with each further one",
    )
    _add_switches(original, OriginalSwitches)

    enkash = vendors.add_parser("enkash", parents=[common], help="EnKash: tokens, coin events, allocations, balances")
    enkash.add_argument("--port", type=int, default=9500, help="port to listen on, 0 for any")
    enkash.add_argument("--client-id", default=CLIENT_ID)
    enkash.add_argument("--client-secret", default=CLIENT_SECRET)
    enkash.add_argument("--username", default=USERNAME)
    enkash.add_argument("--password", default=PASSWORD)
    enkash.add_argument("--funds", type=int, metavar="COINS", help="total of coins that can be given, unlimited by default")
    _add_switches(enkash, EnkashSwitches)
    return parser


def build(arguments: Sequence[str]) -> Sandbox:
    """Return the sandbox that the command line asks for.

    Raises:
        SystemExit: it asks for something there is not.
    """
    parser = _parser()
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    try:
        if options.pop("vendor") == "enkash":
            return EnkashSandbox(**options)
        options["webhook_keys"] = dict(options["webhook_keys"] or WEBHOOK_KEYS)
        options["rewards"] = options["rewards"] or REWARDS
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
        print(line, flush=True)  # noqa: T201 - the first line tells where the sandbox listens
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
