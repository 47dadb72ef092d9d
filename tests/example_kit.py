"""Examples as modules, their services on loopback, and requests to them."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
ORDER = {"user": "110985463782", "amount": "1.23", "order": "A-1001"}


def load(name: str) -> Any:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def app_of(name: str) -> Any:
    """Return the application of an example, made in a thread: what a program does before it serves may block."""
    return await asyncio.to_thread(load(name).make_app)


@asynccontextmanager
async def on_aiohttp(app: web.Application) -> AsyncIterator[str]:
    """Serve an application and give its URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_uvicorn(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application in this loop and give its URL."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def ask(url: str, order: Any) -> tuple[int, Any]:
    """Post an order and return the status and the answer."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/rewards", json=order) as response:
        return response.status, await response.json()
