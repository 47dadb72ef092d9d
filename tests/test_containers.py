"""The image and the compose file of the listener: what needs no container is run, and each part of the rest is checked."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.test_fleet import understood
from tests.webhooks.listener_process import delivery, half_sent, running
from webhooks.cli import PROGRAM

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.listener.yaml"
SCHEMA = ROOT / "tests" / "data" / "compose-spec" / "compose-spec.json"


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return, of each stage of the Dockerfile, what it begins from and its instructions."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text("utf-8"))
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = base, []
        elif line and not line.startswith("#"):
            list(found.values())[-1][1].append((word, rest))
    return found


def whole(target: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage and of those that it begins from."""
    base, own = stages()[target]
    return [*(whole(base) if base in stages() else []), *own]


def last(target: str, word: str) -> str:
    return [rest for name, rest in whole(target) if name == word][-1]


def test_the_listener_is_what_is_built_without_a_target() -> None:
    assert list(stages())[-1] == "listener"


@pytest.mark.parametrize("target", ["listener", "fleet"])
def test_an_image_does_not_run_as_root(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert f"--uid {user}" in last(target, "RUN")


@pytest.mark.parametrize("target", ["listener", "fleet"])
def test_an_image_holds_the_installed_environment_and_not_the_source(target: str) -> None:
    copied = [rest for word, rest in whole(target) if word in {"COPY", "ADD"}]
    wanted = ["--from=build /opt/rewards-async /opt/rewards-async"]
    assert copied == [*wanted, "examples examples"] if target == "fleet" else copied == wanted


def test_the_image_is_stopped_and_started_without_a_shell() -> None:
    assert last("listener", "STOPSIGNAL") == "SIGTERM"
    assert json.loads(last("listener", "ENTRYPOINT")) + json.loads(last("listener", "CMD")) == ["webhook-listener", "serve"]


def test_the_image_has_no_secret_in_it() -> None:
    for _, instructions in stages().values():
        assert not [
            rest for word, rest in instructions if word in {"ARG", "ENV"} and re.search("(?i)secret|password|token|key", rest)
        ]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split("\n")
    assert "*" in allowed
    assert {line[1:] for line in allowed if line.startswith("!")} == {
        *("pyproject.toml", "README.md", "LICENSE", "examples"),
        *tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }


def test_the_image_names_extras_and_variables_that_exist() -> None:
    ((extras,),) = [re.findall(r"\[([\w,]+)\]", rest) for word, rest in stages()["build"][1] if "pip --python" in rest]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras.split(",")) < set(declared)
    known = {PROGRAM.variable(*words.split(), name) for words, specs in PROGRAM.options() for name in specs}
    known |= {PROGRAM.variable(name) for _, specs in PROGRAM.options() for name in specs}
    named = re.findall(r"WEBHOOK_LISTENER_\w+", (DEPLOY / "Dockerfile").read_text("utf-8") + COMPOSE.read_text("utf-8"))
    assert set(named) <= known
    assert len(named) >= 4


async def healthy(port: str) -> int:
    """Run the image's health check against an admin port, and return its exit code."""
    _, _, form = last("listener", "HEALTHCHECK").partition(" CMD ")
    python, *words = json.loads(form)
    assert python == "python"
    assert any("8481" in word for word in words)
    checking = await asyncio.create_subprocess_exec(
        sys.executable, *(word.replace("8481", port) for word in words), stderr=subprocess.DEVNULL
    )
    return await checking.wait()


@pytest.mark.slow
async def test_the_health_check_asks_whether_deliveries_should_be_sent_here(tmp_path: Path) -> None:
    async with running(tmp_path, "--body-timeout", "60", "--log-level", "info") as listener:
        port = listener.where["admin"].rpartition(":")[2]
        assert await healthy(port) == 0
        _, writer = await half_sent(listener, delivery("1"))
        listener.send_signal(signal.SIGTERM)
        await listener.log_until("draining; ")
        assert await healthy(port) == 1
        writer.close()
    assert await healthy(port) == 1


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("compose*.yaml")), ids=lambda path: path.name)
def test_a_compose_file_is_one_by_the_specification(path: Path) -> None:
    found = Draft7Validator(json.loads(SCHEMA.read_text("utf-8"))).iter_errors(yaml.safe_load(path.read_text("utf-8")))
    assert [f"{problem.json_path}: {problem.message}" for problem in found] == []


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return found


@pytest.mark.parametrize("name", services())
def test_each_container_of_the_listener_is_hardened(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert "privileged" not in service
    assert "cap_add" not in service


def test_the_commands_of_the_listeners_compose_file_are_understood() -> None:
    listener, vendor = services()["listener"], services()["vendor"]
    assert listener["build"]["target"] == "listener"
    assert (ROOT / listener["build"]["dockerfile"]).exists()
    assert understood("webhook-listener", listener["command"])
    assert vendor["image"] == listener["image"]
    assert understood("python", ["-m", "vendor_sandboxes", *vendor["command"]])


def test_the_parts_of_the_compose_file_know_each_other() -> None:
    whole_file = yaml.safe_load(COMPOSE.read_text("utf-8"))
    for name, service in services().items():
        for secret in service.get("secrets", []):
            assert secret in whole_file["secrets"], name
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in {*whole_file["volumes"], "./secrets/listener"}, name
        for other in service.get("depends_on", {}):
            assert other in services(), name
    told = [value for service in services().values() for value in service.get("environment", {}).values()]
    mounted = {f"/run/secrets/{name}" for name in whole_file["secrets"]}
    assert {value for value in told if value.startswith("/run/secrets/")} == mounted


def make_secrets(folder: Path) -> dict[str, Path]:
    """Run the script in a folder, with a `chown` that anybody may call, and return what it made."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "chown").write_text(f'#!/bin/sh\necho "$@" >> {folder}/owners\n')
    (folder / "bin" / "chown").chmod(0o755)
    shutil.copy(DEPLOY / "make-secrets.sh", folder)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    subprocess.run([folder / "make-secrets.sh"], env=environment, check=True)
    secrets = folder / "secrets"
    return {str(path.relative_to(secrets)): path for path in secrets.rglob("*") if path.is_file()}


def test_secrets_are_made_once_for_the_users_of_the_containers(tmp_path: Path) -> None:
    files = make_secrets(tmp_path)
    texts = {name: path.read_text() for name, path in files.items()}
    told = [value for service in services().values() for value in service.get("environment", {}).values()]
    wanted = {f"listener/{Path(value).name}" for value in told if value.startswith("/secrets/")}
    kept = yaml.safe_load(COMPOSE.read_text("utf-8"))["secrets"].values()
    assert set(files) == wanted | {each["file"].removeprefix("secrets/") for each in kept}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}  # asyncpg believes no other in a pgpass
    assert stat.S_IMODE((tmp_path / "secrets" / "listener").stat().st_mode) == 0o711  # its user finds its files there
    assert texts["listener/pgpass"] == f"*:*:*:*:{texts['postgres_password']}"
    assert len(texts["postgres_password"].strip()) == 48
    owners = [line.split(maxsplit=1) for line in (tmp_path / "owners").read_text().splitlines()]
    assert {Path(path).name: owner for owner, path in owners} == {
        "pgpass": last("listener", "USER"),
        "webhook.keys": last("listener", "USER"),
        "postgres_password": services()["postgres"]["user"],
    }
    assert {name: path.read_text() for name, path in make_secrets(tmp_path).items()} == texts


def test_each_installation_has_a_webhook_secret_of_its_own_which_the_sandboxed_vendor_signs_with(tmp_path: Path) -> None:
    keys = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        keys.append(make_secrets(tmp_path / name)["listener/webhook.keys"].read_text().strip())
    assert len({key.partition(":")[2] for key in keys}) == 2
    assert all(re.fullmatch(r"\w+:[0-9a-f]{48}", key) for key in keys)
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    vendor = services()["vendor"]
    words = [word.replace("$$", "$").replace("/secrets/", f"{tmp_path}/one/secrets/listener/") for word in vendor["entrypoint"]]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*words, *vendor["command"]], env=environment, capture_output=True, text=True, check=True)
    started = done.stdout.splitlines()
    assert understood("python", started)
    assert f"--webhook-key={keys[0]}" in started
    assert "./secrets/listener:/secrets:ro" in vendor["volumes"]


def test_a_file_that_is_replaced_is_the_new_one_for_the_container_that_reads_it_again() -> None:
    listener = services()["listener"]
    assert "secrets" not in listener  # each would be the mount of a file, which stays the old one
    assert "./secrets/listener:/secrets:ro" in listener["volumes"]
