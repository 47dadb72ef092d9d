"""A hardened server with an inbox, peers that talk to it over raw sockets, and hostile deliveries, reproducible by seed."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import attrs
from attrs import frozen

from original_async import OriginalWebhooks
from tests.webhooks.fakes import FakeSource
from webhooks.ingress.base import Reply
from webhooks.ingress.connection import Connection
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore

HEALTHY = b"POST /hook HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello"
SLOWEST = ServerLimits(
    header_seconds=3_600,
    answer_seconds=3_600,
    idle_seconds=3_600,
    linger_seconds=0.2,
    drain_grace_seconds=0.2,
    connections=2000,
    connections_per_peer=2000,
)
IMPATIENT = attrs.evolve(SLOWEST, answer_seconds=0.3)
"""A peer that left is noticed so soon, because nothing is read from a connection while its request is being answered."""


class Inbox(Receiver):
    """A receiver that can be held up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(options.pop("source", None) or FakeSource(), MemoryStore(), **options)
        self.begun = 0
        self.bodies: list[bytes] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.finished = asyncio.Event()
        self.headers: Mapping[str, str] = {}
        self.words = b"kept"
        self.fault: Exception | None = None

    def refusal(self, *request: Any, **more: Any) -> Reply | None:
        refused = super().refusal(*request, **more)
        self.begun += refused is None
        return refused

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        if len(body) > self.max_body:
            return self.refuse("size", peer)
        self.entered.set()
        await self.go_on.wait()
        if self.fault is not None:
            raise self.fault
        self.headers = headers
        self.bodies.append(body)
        self.finished.set()
        return Reply(status=200, headers={"X-Kept": "yes"}, body=self.words)


class Running:
    """A server on a loopback port, with raw clients."""

    def __init__(self, server: HardenedServer, inbox: Inbox, port: int) -> None:
        self.server = server
        self.inbox = inbox
        self.port = port

    async def connect(
        self, source: str = "127.0.0.1", *, receive_buffer: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        client.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return await asyncio.open_connection(sock=client)

    async def until_closed(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes, and return everything received until the server closes."""
        reader, writer = await self.connect(source)
        try:
            writer.write(data)
            return await read_all(reader)
        finally:
            await close(writer)

    async def healthy(self, source: str = "127.0.0.1") -> int:
        """Make one healthy delivery and return its status."""
        return status_of(await self.until_closed(HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), source))

    @property
    def connections(self) -> list[Connection]:
        return cast("list[Connection]", self.server.connections)

    @property
    def refused(self) -> Mapping[str, int]:
        return {**self.server.refusals.total, **self.inbox.statistics.rejected}


@asynccontextmanager
async def serving(
    limits: ServerLimits = SLOWEST,
    *,
    trusted: Networks | None = None,
    allowed: Networks | None = None,
    send_buffer: int = 0,
    others: Mapping[str, Receiver] = {},
    **options: Any,
) -> AsyncIterator[Running]:
    inbox = Inbox(**options)
    hardened = HardenedServer({"/hook": inbox, **others}, limits=limits, trusted=trusted, allowed=allowed)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0, backlog=1000)
    if send_buffer:
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        yield Running(hardened, inbox, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        inbox.go_on.set()
        await hardened.drain(5)


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until a condition holds."""
    while not condition():
        await asyncio.sleep(0)


async def turns() -> None:
    """Run all tasks as far as possible, and the timers that are due."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read to the end; a reset counts as the end."""
    data = b""
    try:
        while block := await reader.read(65536):
            data += block
    except ConnectionError:
        pass
    return data


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Read one response of a connection that stays open, and return its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return status_of(head)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def status_of(answer: bytes) -> int:
    """Return the status of a response; 0 if the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def request(head: str = "", body: bytes = b"", method: str = "POST", path: str = "/hook") -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: here\r\n{head}"
    if body and "content-length" not in head.lower() and "transfer-encoding" not in head.lower():
        lines += f"Content-Length: {len(body)}\r\n"
    return lines.encode() + b"\r\n" + body


MAX_BODY = 262_144
NAMES = ["reward.allocated", "reward.claimed", "asset.minted", "", "*", "outcome.conflict", "\u202egnp.exe", "a" * 5_000, "\x00"]
SMALL_PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"1e999",
    b"-0",
    b'"data"',
    b'"uid"',
    b"\\ud800",
    b"\xa0",
    b"\x00",
]
NUMBERS = [
    "1e999999999",
    "-1e-999999999",
    "1" * 400,
    "9" * 5_000,
    "-0",
    "0.1e1",
    "1E+400",
    "NaN",
    "Infinity",
    "-Infinity",
    "1.",
    "01",
    "0x1",
]
TEXTS = [
    b"",
    b" \r\n\t",
    b"null",
    b"true",
    b'"text"',
    b"[]",
    b"{}",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'{"event": "\\ud800"}',
    b'{"event": "\\udc00\\ud800"}',
    b'{"event": "\xed\xa0\x80"}',
    b'{"event": "\xc0\xaf"}',
    b'{"event": "a\x00b"}',
    b"{'event': 1}",
    b'{"event": "reward.allocated",}',
    b'{"event": "x", "data": {}} trailing',
]


@frozen
class Delivery:
    """One delivery.

    Attributes:
        body: Its body.
        headers: Its headers but for those of its framing, as they go over the wire.
        signed: Whether it is signed as the vendor does.
        chunked: Whether its body goes in chunks.
    """

    body: bytes
    headers: bytes
    signed: bool
    chunked: bool

    @property
    def wire(self) -> bytes:
        """The request as it goes over the wire."""
        if not self.chunked:
            return b"%sContent-Length: %d\r\n\r\n%s" % (self.headers, len(self.body), self.body)
        half = len(self.body) // 2
        chunks = [chunk for chunk in (self.body[:half], self.body[half:]) if chunk]
        return b"%sTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % (
            self.headers,
            b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks),
        )


def a_value(dice: random.Random, depth: int = 0) -> Any:
    roll = dice.random()
    if depth < 4 and roll < 0.35:
        keys = ["uid", "status", "amount", "app", "allocation", "claim", "reward", "data", "event", "sent_at", "nonce", ""]
        return {dice.choice(keys): a_value(dice, depth + 1) for _ in range(dice.randint(0, 4))}
    if depth < 4 and roll < 0.45:
        return [a_value(dice, depth + 1) for _ in range(dice.randint(0, 3))]
    return dice.choice(
        ["done", "Failed", "pending", "324167489835", "1.23", "../x", "a\x00b", "ü", "", None, True, 7, 1.5, -1, 10**19]
    )


def deliveries(seed: int, source: OriginalWebhooks, path: str) -> Iterator[Delivery]:
    """Yield endless deliveries, most of them different."""
    dice = random.Random(seed)
    start = f"POST {path} HTTP/1.1\r\nHost: listener\r\n".encode()
    number = 0
    while True:
        number += 1
        body = _a_body(dice, seed * 1_000_000_000 + number)[:MAX_BODY]
        signed = dice.random() < 0.6
        value = source.sign(body).encode() if signed else _no_signature(dice, source, body)
        headers = b"" if value is None else b"x-webhook-signature: %s\r\n" % value
        if dice.random() < 0.1:
            headers += dice.choice(
                [b"x-webhook-attempt: \xff\r\n", b"x-webhook-correlation-id: %s\r\n" % (b"\xc3\xbc" * 200), b"x-a: \r\n"]
            )
        yield Delivery(body, start + headers, signed, dice.random() < 0.05)


def _resource(dice: random.Random, number: int) -> dict[str, Any]:
    return {
        "uid": dice.choice([f"{number:012}", number, None, "", "x" * 300, "\u0661\u0662", ["1"], {"uid": "1"}, "\x1b[31m"]),
        "status": dice.choice(["done", "FAILED", "odd", None, 1]),
        "reward_uid": "151854912345",
        "to_user_uid": "754566475542",
        "amount": dice.choice(["1.23", 1.5, -1, "1_000", "\u0661", "Infinity", "1e400", "0" * 400, None, True]),
        "nonce": dice.choice([f"n{number}", "", "x" * 5_000, 7]),
        "created_at": dice.choice(["2023-08-10T14:07:14.494142Z", "0000-00-00", 0]),
    }


def _event(dice: random.Random, number: int) -> bytes:
    data: Any = {dice.choice(["allocation", "claim", "reward", "x", "Allocation"]): _resource(dice, number), "app": a_value(dice)}
    body = {"data": data, "event": dice.choice(NAMES), "event_time": dice.choice(["now", None, 1]), "sent_at": number}
    return json.dumps(body, ensure_ascii=dice.random() < 0.5).encode()


def _anything(dice: random.Random, number: int) -> bytes:
    return json.dumps({"event": dice.choice(NAMES), "data": a_value(dice), "n": number}).encode()


def _broken(dice: random.Random, number: int) -> bytes:
    body = bytearray(_event(dice, number))
    for _ in range(dice.randint(1, 4)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    return bytes(body)


def _pieces(dice: random.Random, number: int) -> bytes:
    return b"".join(dice.choices(SMALL_PIECES, k=dice.randint(0, 30))) + b" %d" % number


def _number(dice: random.Random, number: int) -> bytes:
    value = dice.choice(NUMBERS)
    resource = f'{{"uid": "{number}", "amount": {value}}}'
    return f'{{"event": "reward.allocated", "data": {{"allocation": {resource}}}, "n": {value}}}'.encode()


def _text(dice: random.Random, number: int) -> bytes:
    return dice.choice(TEXTS)


def _repeated(dice: random.Random, number: int) -> bytes:
    members = ", ".join(f'"uid": "{number + each}", "event": "x", "data": {each}' for each in range(dice.randint(2, 5)))
    return f'{{"event": "reward.allocated", "data": {{"allocation": {{{members}}}}}, {members}}}'.encode()


def _deep(dice: random.Random, number: int) -> bytes:
    depth = dice.choice([10, 500, 1_000, 1_025, 3_000])
    opening = dice.choice([b"[", b'{"data":', b'{"allocation":{"uid":"1","x":[', b"[{}, "])
    return b"%d" % number + opening * depth if dice.random() < 0.2 else opening * depth + b"1" + b"]" * depth


def _wide(dice: random.Random, number: int) -> bytes:
    many = dice.choice([100, 1_500])
    resources = ",".join(f'{{"uid": "{number}{each}", "to_user_uid": "1"}}' for each in range(many))
    return f'{{"event": "reward.allocated", "data": {{"allocations": [{resources}]}}}}'.encode()


def _large(dice: random.Random, number: int) -> bytes:
    filling = dice.choice([b"[", b"{", b'{"a":', b" ", b"9", b'"', b"\\", b"\xff", b'"\\ud800",', b"[[],", b"\x00"])
    return (b"%d" % number if dice.random() < 0.5 else b"") + filling * (MAX_BODY // len(filling))


_KINDS: list[tuple[Callable[[random.Random, int], bytes], float]] = [
    (_event, 0.3),
    (_anything, 0.15),
    (_broken, 0.2),
    (_pieces, 0.14),
    (_number, 0.08),
    (_text, 0.05),
    (_repeated, 0.06),
    (_deep, 0.018),
    (_wide, 0.0005),
    (_large, 0.0015),
]
_MAKERS, _WEIGHTS = zip(*_KINDS, strict=True)


def _a_body(dice: random.Random, number: int) -> bytes:
    return dice.choices(_MAKERS, _WEIGHTS)[0](dice, number)


def _no_signature(dice: random.Random, source: OriginalWebhooks, body: bytes) -> bytes | None:
    """Return a signature header that must not be accepted; None for no header."""
    good = source.sign(body)
    key_id, _, digest = good.partition(",")
    place = dice.randrange(len(digest))
    near = digest[:place] + "0123456789abcdef"[int(digest[place], 16) - 1] + digest[place + 1 :]
    value = dice.choice(
        [
            f"{key_id},{near}",
            f"{key_id},{near} {key_id},{near.upper()} other,{digest}",
            source.sign(body + b" "),
            source.sign(body[:-1] if body else b"x"),
            f"{key_id},{base64.b64encode(bytes.fromhex(digest)).decode()}",
            f"{key_id.upper()},{digest}",
            f"{key_id},{digest[:-1]}",
            f"{key_id},{digest}0",
            f"{key_id},0x{digest[2:]}",
            f"{key_id}\xa0,{digest}",
            f"{key_id},\xa0{digest[1:]}",
            digest,
            f",{digest}",
            f"{key_id}:{digest}",
            f"{key_id},",
            "," * 3_000,
            "a,b " * 1_500,
            None,
        ]
    )
    return None if value is None else value.encode("latin-1")
