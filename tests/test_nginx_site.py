"""The site of `deploy/` in a real nginx, with TLS, before two listeners."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.example_kit import ORDER, ROOT
from tests.system_parts import system_program
from tests.test_documents import fences, free_port
from tests.webhooks.listener_process import delivery, running, signed
from tests.webhooks.proxy_kit import Proxy, in_front
from vendor_sandboxes.testing import OriginalServer, RewardsBooks

SITE = Path(__file__).resolve().parents[1] / "deploy" / "nginx-site.conf"
NAME = "hooks.example.com"
HEAD = """
daemon off;
pid nginx.pid;
error_log stderr notice;
events {}
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a certificate, which nginx's user may enter; those of pytest are private."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    (made / "tls").mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made / "ca.pem"))
    own = authority.issue_cert(NAME)
    own.private_key_pem.write_to_path(str(made / "tls" / "privkey.pem"))
    own.cert_chain_pems[0].write_to_path(str(made / "tls" / "fullchain.pem"))
    yield made
    shutil.rmtree(made)


def has_ipv6() -> bool:
    """Return whether this machine has an IPv6 loopback."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def configuration(folder: Path, front: str, listeners: list[str]) -> str:
    """Return the site as a whole configuration, with other addresses and the certificate of a folder."""
    text = SITE.read_text("utf-8").replace(f"/etc/ssl/{NAME}", str(folder / "tls"))
    line = r" *listen \[::\]:443.*\n"
    assert re.search(line, text)
    text = text.replace("[::]:443", f"[::1]:{front}") if has_ipv6() else re.sub(line, "", text)
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{front} ssl")
    for shown, address in zip(("127.0.0.1:8480", "127.0.0.1:8580"), listeners, strict=True):
        assert shown in text
        text = text.replace(shown, address)
    return f"{HEAD}{text}}}\n"


def test_nginx_accepts_the_site(folder: Path) -> None:
    (folder / "nginx.conf").write_text(configuration(folder, free_port(), ["127.0.0.1:1", "127.0.0.1:2"]))
    command = [system_program("nginx"), "-t", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "warn" in done.stderr) == (0, False), done.stderr


async def test_deliveries_reach_the_listener_that_is_left(folder: Path) -> None:
    options = ("--trusted-proxy", "127.0.0.1", "--allow", "127.0.0.1", "--store", f"sqlite:///{folder}/inbox.db")
    port = free_port()
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    forged = {"X-Forwarded-For": "203.0.113.9", "Host": NAME}
    async with running(folder, *options) as first, running(folder, *options) as second, aiohttp.ClientSession() as session:

        async def send(body: bytes, path: str = "/webhooks/original") -> int:
            url = f"https://127.0.0.1:{port}{path}"
            headers = {**signed(body), **forged}
            async with session.post(url, data=body, headers=headers, ssl=context, server_hostname=NAME) as answer:
                return answer.status

        addresses = [each.where["url"].removeprefix("http://") for each in (first, second)]
        text = configuration(folder, port, addresses).replace("{", "{{").replace("}", "}}")
        nginx = Proxy(text, ("nginx", "-e", "stderr", "-p", "{folder}", "-c", "{config}"), "start worker process ", "")
        async with in_front(nginx, folder, {"url": ""}):
            assert {await send(delivery(str(number))) for number in range(4)} == {200}
            assert await send(delivery("of any size", note="x" * 260_000)) == 200
            assert await send(delivery("too long", note="x" * 263_000)) == 413
            assert await send(b"{}", "/elsewhere") == 404
            if has_ipv6():
                async with session.get(f"https://[::1]:{port}/", ssl=context, server_hostname=NAME) as answer:
                    assert answer.status == 404
            await first.kill()
            sent = [asyncio.create_task(send(delivery(f"later {number}"))) for number in range(8)]
            assert await asyncio.gather(*sent) == [200] * 8


PAGE = "docs/how-to/several-workers.md"
COMMANDS = [line for _, _, body in fences(PAGE) for line in body.splitlines() if "--workers 2" in line]


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[0])
async def test_two_workers_of_an_application_pay_each_order_once_behind_the_site(
    line: str, folder: Path, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    port, plain, back = free_port(), free_port(), free_port()
    program, *words = shlex.split(line.replace("8480", back).replace(" examples ", f" {ROOT}/examples "))
    unhurried = {"gunicorn": ["--timeout", "600", "--no-control-socket"], "uvicorn": ["--timeout-worker-healthcheck", "600"]}
    text = configuration(folder, port, [f"127.0.0.1:{back}"] * 2)
    text = re.sub(r"^    #(location|    |\})", r"    \1", text, flags=re.MULTILINE)
    text = text.replace("server_tokens", f"listen 127.0.0.1:{plain};\n    server_tokens")  # the sandbox knows no certificate
    original_sandbox.webhook_url = f"http://127.0.0.1:{plain}/webhooks/original"
    nginx = Proxy(
        text.replace("{", "{{").replace("}", "}}"),
        ("nginx", "-e", "stderr", "-p", "{folder}", "-c", "{config}"),
        "start worker process ",
        "",
    )
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    application = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, *words, *unhurried[program]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    assert application.stderr is not None
    try:
        said, up = "", 0
        while up < 2:
            next_line = (await application.stderr.readline()).decode()
            assert next_line, said
            said += next_line
            up += "Booting worker" in next_line or "Application startup complete" in next_line
        async with in_front(nginx, folder, {"url": ""}), aiohttp.ClientSession() as session:

            async def order(number: int) -> int:
                body = {**ORDER, "order": f"A-{number}"}
                url = f"https://127.0.0.1:{port}/rewards"
                async with session.post(url, json=body, ssl=context, server_hostname=NAME) as answer:
                    return answer.status

            assert await asyncio.gather(*map(order, range(12))) == [200] * 12
    finally:
        application.terminate()
        await application.communicate()
    assert sorted(each.key for each in rewards_books.payments) == sorted(f"A-{number}" for number in range(12))
