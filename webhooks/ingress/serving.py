"""A port of this process that takes deliveries, for programs without a web framework."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from rewards_core.validation import check_mapping, check_methods, check_str, check_whole, shown
from webhooks.ingress.base import Intake
from webhooks.ingress.hardened_server import HardenedServer, logger
from webhooks.refusals import Refusals

_DRAIN_TIMEOUT = 5.0
_NO_OPTIONS = (
    "This port has no such setting. Behind a proxy, or among strangers, let webhook-listener take the webhooks, and give this "
    "program the listener's store."
)


@asynccontextmanager
async def serving(routes: Mapping[str, Intake], *, host: str = "127.0.0.1", port: int = 8080) -> AsyncGenerator[str]:
    """Take deliveries on a port while the block runs, and yield its URL, such as `"http://127.0.0.1:8080"`.

    The server is the one of `webhook-listener`, with its default limits and without TLS. At the end of the block, deliveries
    under way have 5 seconds to be answered.

    Args:
        routes: Receivers by path, such as `{"/webhooks/rewards": receiver}`; enter each by `async with` around this.
        host: The address to listen on; `"0.0.0.0"` for all.
        port: The port, 0 to 65535; 0 for any free one.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `port` is out of range, `host` is empty, or a path does not begin with a slash.
        OSError: the port cannot be bound; nothing is listened to.
    """
    if not check_str(host, "host"):  # asyncio would take it for all addresses
        raise ValueError("host: give an address such as '127.0.0.1', or '0.0.0.0' for all, not an empty text.")
    check_whole(port, "port", at_least=0, at_most=65_535)
    for path, receiver in check_mapping(routes, "routes", "a mapping of paths to receivers").items():
        if not check_str(path, "routes").startswith("/"):
            raise ValueError(f"routes: give paths that begin with a slash, not {shown(path)}.")
        check_methods(receiver, "routes", "Receiver(...)", Intake)
    hardened = HardenedServer(routes, refusals=Refusals(logger, instead=_NO_OPTIONS))
    server = await asyncio.get_running_loop().create_server(hardened, host, port)
    bound, number = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{f'[{bound}]' if ':' in bound else bound}:{number}"
    finally:
        server.close()
        await hardened.drain(_DRAIN_TIMEOUT)
        await server.wait_closed()
