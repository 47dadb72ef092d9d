"""Of what `docs/how-to/deploying.md` shows in blocks that no test can run, every file, unit, service and command is checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.test_documents import TEXTS, fences
from tests.test_fleet import understood

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/how-to/deploying.md"
LINES = [line for language, _, body in fences(PAGE) if language == "text" for line in body.splitlines()]
COMPOSE = [line for line in LINES if line.startswith("docker compose")]


def test_every_file_of_deploy_that_a_page_names_is_there_and_every_file_is_named() -> None:
    named = {path for text in TEXTS.values() for path in re.findall(r"\bdeploy/[\w.@-]+[\w@]", text)}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "deploy").iterdir() if path.is_file()}
    assert named - there <= {"deploy/secrets"}
    assert there - named == {"deploy/Dockerfile.dockerignore", "deploy/make-secrets.sh", "deploy/nginx.conf"} - named


@pytest.mark.parametrize("line", COMPOSE)
def test_a_command_to_compose_is_about_a_service_and_is_understood_there(line: str) -> None:
    _, _, option, file, verb, *words = shlex.split(line)
    assert option == "-f"
    services = yaml.safe_load((ROOT / file).read_text("utf-8"))["services"]
    if verb == "exec":
        name, program, *words = words
        assert name in services
        assert understood(program, words)
    elif verb == "kill":
        assert words[-1] in services
    else:
        assert verb == "up"


def test_a_unit_that_is_started_is_one_of_deploy() -> None:
    started = re.findall(r"systemctl (?:enable --now|reload|start) ([\w@.-]+\.service)", TEXTS[PAGE])
    assert len(started) >= 3
    for name in started:
        assert (ROOT / "deploy" / re.sub(r"@.*\.", "@.", name)).exists()


def test_the_folders_and_the_user_of_the_unit_are_those_that_are_made() -> None:
    unit = (ROOT / "deploy" / "webhook-listener.service").read_text("utf-8")
    shown = "\n".join(LINES)
    for setting, command in {
        "User=webhook-listener": "useradd --system --user-group --home-dir /var/lib/webhook-listener",
        "--config /etc/webhook-listener/listener.toml": "listener.toml /etc/webhook-listener/listener.toml",
        "EnvironmentFile=-/etc/webhook-listener/environment": "/dev/null /etc/webhook-listener/environment",
        "ExecStart=/opt/rewards-async/bin/webhook-listener": "/opt/rewards-async/bin/pip install '.[cli,metrics,postgres]'",
        "ConfigurationDirectoryMode=0750": "install -d -m 750 -o root -g webhook-listener /etc/webhook-listener",
    }.items():
        assert setting in unit
        assert command in shown


def test_the_keys_are_put_where_the_container_reads_them() -> None:
    (line,) = [line for line in LINES if line.startswith("sudo install")]
    listener = yaml.safe_load((ROOT / "deploy" / "compose.listener.yaml").read_text("utf-8"))["services"]["listener"]
    folder, inside, _ = next(volume for volume in listener["volumes"] if volume.startswith("./")).split(":")
    *_, target = shlex.split(line)
    assert listener["environment"]["WEBHOOK_LISTENER_KEYS_FILE"] == f"{inside}/{Path(target).name}"
    assert Path(target).parent == Path("deploy") / folder
    assert "USER 10001:10001" in (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert "-m 600 -o 10001 -g 10001" in line


def test_what_is_installed_is_not_looked_for_on_a_package_index() -> None:
    assert not [page for page, text in TEXTS.items() if re.search(r"pip install '?rewards-async", text)]


@pytest.mark.parametrize("page", TEXTS)
def test_a_line_that_is_no_row_of_a_table_is_not_long(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 140 and not line.startswith("|")] == []
