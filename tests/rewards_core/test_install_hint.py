"""A message that says that an extra is missing names the command of the installer in use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rewards_core.install_hint import install_hint


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which rewards-async is installed, by nobody known."""
    place = tmp_path / "env"
    (place / "site" / "rewards_async-0.2.0.dist-info").mkdir(parents=True)
    (place / "site" / "rewards_async-0.2.0.dist-info" / "METADATA").write_text("Name: rewards-async\nVersion: 0.2.0\n")
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(sys, "path", [str(place / "site")])
    return place


def installed_by(environment: Path, text: str) -> None:
    (environment / "site" / "rewards_async-0.2.0.dist-info" / "INSTALLER").write_text(text)


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("pip\n", "pip install"),
        ("uv", "uv pip install"),
        ("Poetry 2.1.3", "poetry add"),
        ("", "pip install"),
        ("conda", "pip install"),
    ],
)
def test_the_hint_is_that_of_the_installer(environment: Path, installer: str, command: str) -> None:
    installed_by(environment, installer)
    assert install_hint("postgres") == f"{command} 'rewards-async[postgres]'"


def test_a_project_of_uv_adds_to_its_dependencies(environment: Path) -> None:
    installed_by(environment, "uv")
    (environment.parent / "uv.lock").touch()
    assert install_hint("sqs") == "uv add 'rewards-async[sqs]'"


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("rewards-async", "rewards-async[sqs]"),
        ("rewards-async[cli,metrics]", "rewards-async[cli,metrics,sqs]"),
        ("rewards-async[cli]==0.2.0", "rewards-async[cli,sqs]==0.2.0"),
        ("/srv/clone of it[cli]", "/srv/clone of it[cli,sqs]"),
        ("git+https://git.example.com/rewards@v1", "rewards-async[sqs] @ git+https://git.example.com/rewards@v1"),
        ("rewards-async[cli] @ https://x.example.com/a.whl", "rewards-async[cli,sqs] @ https://x.example.com/a.whl"),
    ],
)
def test_pipx_installs_again_with_the_extras_that_are_there(environment: Path, spec: str, wanted: str) -> None:
    installed_by(environment, "pip")
    (environment / "pipx_metadata.json").write_text(json.dumps({"main_package": {"package_or_url": spec}}))
    assert install_hint("sqs") == f"pipx install --force '{wanted}'"


@pytest.mark.parametrize(
    ("requirement", "wanted"),
    [('name = "rewards-async"', "sqs"), ('name = "rewards-async", extras = ["cli", "metrics"]', "cli,metrics,sqs")],
)
def test_a_tool_of_uv_is_installed_again_with_the_extras_that_are_there(environment: Path, requirement: str, wanted: str) -> None:
    installed_by(environment, "uv")
    (environment / "uv-receipt.toml").write_text(f'[tool]\nrequirements = [{{ name = "other" }}, {{ {requirement} }}]\n')
    assert install_hint("sqs") == f"uv tool install 'rewards-async[{wanted}]'"


@pytest.mark.parametrize(
    ("file", "command"), [("pipx_metadata.json", "pipx install --force"), ("uv-receipt.toml", "uv tool install")]
)
@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"main_package": []}', "[tool]\nrequirements = 1"])
def test_notes_of_an_installer_that_cannot_be_read_cost_no_command(environment: Path, file: str, command: str, text: str) -> None:
    (environment / file).write_text(text)
    assert install_hint("sqs") == f"{command} 'rewards-async[cli,sqs]'"


def test_without_an_installation_pip_is_named(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(environment)])
    assert install_hint("cli") == "pip install 'rewards-async[cli]'"


def test_only_an_error_looks_at_the_installation() -> None:
    code = "import rewards_core.install_hint, sys; print(*{'importlib.metadata', 'tomllib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_other_module_names_an_installer() -> None:
    root = Path(__file__).resolve().parents[2]
    packages = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes")
    modules = [path for package in packages for path in (root / package).rglob("*.py")]
    assert len(modules) > 100
    naming = {path.relative_to(root).as_posix() for path in modules if "pip install" in path.read_text("utf-8")}
    assert naming == {"rewards_core/install_hint.py"}
