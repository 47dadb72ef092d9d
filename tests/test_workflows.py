"""The workflows and forms in `.github`: pinned, with few rights, and of commands that exist. Nothing here runs them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards_core.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github").rglob("*.yml"))
WORKFLOWS = [path for path in FILES if path.parent.name == "workflows"]
MAY_WRITE = {
    ("release.yml", "attest"): {"attestations": "write", "id-token": "write"},
    ("release.yml", "publish"): {"id-token": "write"},
    ("release.yml", "release"): {"contents": "write"},
}
"""The jobs that may do more than read this repository."""


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs() -> list[Any]:
    found = [(path.name, name, job) for path in WORKFLOWS for name, job in parsed(path)["jobs"].items()]
    return [pytest.param(file, name, job, id=f"{file}:{name}") for file, name, job in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_yaml(path: Path) -> None:
    assert isinstance(parsed(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_nothing_else(path: Path) -> None:
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    assert "pull_request_target" not in workflow[True]  # `on`, as YAML reads it


@pytest.mark.parametrize(("file", "name", "job"), jobs())
def test_a_job_has_no_more_rights_than_it_needs_and_an_end(file: str, name: str, job: Any) -> None:
    assert job.get("permissions", {}) == MAY_WRITE.get((file, name), {})
    assert job["timeout-minutes"] <= 120
    if job.get("permissions"):  # what holds rights runs nothing of this repository
        assert not [step for step in job["steps"] if "checkout" in step.get("uses", "")]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"- uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_one_action_has_one_pin() -> None:
    pins = set(re.findall(r"uses: (\S+)@(\S+)", "".join(path.read_text("utf-8") for path in WORKFLOWS)))
    assert len({name for name, _ in pins}) == len(pins)


@pytest.mark.parametrize(("file", "name", "job"), jobs())
def test_what_a_job_runs_is_there(file: str, name: str, job: Any) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for step in job["steps"]:
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for path in re.findall(r"\bdeploy/\S+", step.get("run", "")):
            assert (ROOT / path).exists(), path
        assert "${{" not in step.get("run", "")  # what others can write, such as a title, would be run as a command


def test_every_version_of_python_is_tested() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == declared


def test_the_site_that_a_change_makes_can_be_read() -> None:
    _, _, check, upload = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["check"]["steps"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert check["run"] == "make check docs"
    assert f"docs {upload['with']['path'].rstrip('/')}\n" in makefile
    assert upload["with"]["if-no-files-found"] == "error"


def test_each_form_asks_something_and_warns_of_secrets() -> None:
    for name in ("bug.yml", "feature.yml"):
        form = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / name)
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 3
    bug = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8")
    for words in ("secrets", "doctor --json", "--version", "required: true"):
        assert words in bug


@pytest.mark.parametrize(
    ("tag", "problem"),
    [(f"v{VERSION}", ""), (VERSION, "is not the version"), ("v9.9.9", "is not the version"), ("", "is not the version")],
)
def test_a_release_has_the_tag_of_its_version_and_a_section_of_the_changelog(tag: str, problem: str) -> None:
    done = subprocess.run(["make", "release-check", f"TAG={tag}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not problem), done.stderr
    assert problem in done.stderr


def test_the_changelog_has_one_place_for_what_is_not_released() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[:2] == ["Unreleased", VERSION]


def test_a_release_on_github_has_all_that_was_built_and_comes_last() -> None:
    found = parsed(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    download, create = found["release"]["steps"]
    assert download["with"] == {"name": "dist", "path": "dist/"}
    assert create["run"].startswith('gh release create "$GITHUB_REF_NAME" dist/* --verify-tag ')
    assert set(create["env"]) == {"GH_REPO", "GH_TOKEN"}  # there is no checkout to find the repository by
    assert [found[name]["needs"] for name in ("release", "publish", "attest")] == ["publish", "attest", "build"]


def test_the_sbom_is_of_the_wheel_with_every_extra_that_users_install() -> None:
    (extras,) = re.findall(r"dist/\*\.whl\)\[([\w,-]+)\]", (ROOT / "Makefile").read_text("utf-8"))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras.split(",")) == set(declared) - {"test", "bench", "dev", "docs"}


def test_the_tests_install_each_program_of_the_system_that_they_ask_for() -> None:
    installed = (ROOT / "tests" / "install_system_parts.sh").read_text("utf-8")
    asked = {
        name
        for path in ROOT.glob("tests/**/*.py")
        for name in re.findall(r'system_program\("([\w-]+)"\)', path.read_text("utf-8"))
    }
    assert asked >= {"nginx", "promtool", "strace", "systemd-analyze"}
    assert [name for name in asked if not re.search(rf"\b{name}\b", installed)] == []
