"""The site of `deploy/` in a real nginx, with TLS, before two listeners."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.test_documents import free_port
from tests.webhooks.listener_process import delivery, running, signed
from tests.webhooks.proxy_kit import Proxy, in_front

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


def configuration(folder: Path, front: str, listeners: list[str]) -> str:
    """Return the site as a whole configuration, with other addresses and the certificate of a folder."""
    text = SITE.read_text("utf-8").replace(f"/etc/ssl/{NAME}", str(folder / "tls"))
    text = re.sub(r" *listen \[::\]:443 ssl;\n", "", text).replace("listen 443 ssl", f"listen 127.0.0.1:{front} ssl")
    for shown, address in zip(("127.0.0.1:8480", "127.0.0.1:8580"), listeners, strict=True):
        assert shown in text
        text = text.replace(shown, address)
    return f"{HEAD}{text}}}\n"


def test_nginx_accepts_the_site(folder: Path) -> None:
    (folder / "nginx.conf").write_text(configuration(folder, free_port(), ["127.0.0.1:1", "127.0.0.1:2"]))
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    assert nginx is not None, "this machine has no nginx; tests/install_system_parts.sh installs it"
    command = [nginx, "-t", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "warn" in done.stderr) == (0, False), done.stderr


@pytest.mark.slow
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
            await first.kill()
            sent = [asyncio.create_task(send(delivery(f"later {number}"))) for number in range(8)]
            assert await asyncio.gather(*sent) == [200] * 8
