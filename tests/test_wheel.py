"""The wheel holds the packages and nothing else, and works where only it and what it declares are installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rewards_core.version import VERSION
from tests.wheel_check import IMPORT_ALL, OF_POSTGRES, PACKAGES, PROMISES, build, keep_promise

OF_EXTRAS = "asyncpg cryptography greenlet opentelemetry prometheus_client rich typer"
NEEDS_EXTRAS = " ".join(["__main__", "cli", "prometheus", *OF_POSTGRES])


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "--no-isolation")


def environment(home: Path, wheel: Path) -> tuple[Path, Path]:
    """Make an environment that has the wheel and nothing else; return its interpreter and the folder of its packages."""
    venv.create(home, with_pip=False, system_site_packages=False)
    site = next((home / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    return home / "bin" / "python", site


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith(f"rewards_async-{VERSION}-")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES}
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter that has the wheel and all that is installed here, and not the source tree."""
    program, site = environment(tmp_path_factory.mktemp("venv"), wheel)
    (site / "third_party.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left_out", "missing"), [("__main__", ""), (NEEDS_EXTRAS, OF_EXTRAS)], ids=["with every extra", "without any extra"]
)
def test_everything_in_the_wheel_imports_without_the_source_tree(
    python: Path, tmp_path: Path, left_out: str, missing: str
) -> None:
    places = run(python, "-I", "-c", IMPORT_ALL, left_out, missing, *PACKAGES, cwd=tmp_path).split()
    assert len(places) == len(PACKAGES)
    assert all(Path(place).is_relative_to(python.parents[1]) for place in places)


def requirements(lines: list[str], extras: set[str]) -> Iterator[Requirement]:
    """Yield what a distribution with these extras needs here."""
    for requirement in map(Requirement, lines):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def declared(wheel: Path) -> list[str]:
    """Return the lines of a wheel's metadata that say what it needs."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(opened.read(name).decode()).get_all("Requires-Dist", [])


def closure(lines: list[str], extras: set[str]) -> dict[str, metadata.Distribution]:
    """Return the installed distributions that these requirements need, theirs included; each must be of a version that fits."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[str] = set()
    open_ones = [*requirements(lines, extras)]
    while open_ones:
        requirement = open_ones.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), f"{requirement}: {distribution.version}"
        found[canonicalize_name(requirement.name)] = distribution
        open_ones += requirements(distribution.requires or [], requirement.extras)
    return found


def test_every_extra_is_tried(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        extras = {*Parser().parsestr(opened.read(name).decode()).get_all("Provides-Extra", [])}
    tried = {extra for extras in PROMISES for extra in extras.split(",") if extra}
    assert extras - tried == {"test", "bench", "dev", "docs"}


@pytest.mark.slow
@pytest.mark.parametrize("extras", PROMISES, ids=lambda extras: extras or "none")
def test_an_extra_declares_all_that_it_needs(wheel: Path, tmp_path: Path, extras: str) -> None:
    program, site = environment(tmp_path / "venv", wheel)
    for name, distribution in closure(declared(wheel), {*extras.split(",")}).items():
        tops = {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}
        assert tops, f"{name} has no list of its files"
        for top in tops:
            if not (site / top).exists():  # a folder that two distributions share is linked once
                (site / top).symlink_to(str(distribution.locate_file(top)))
    for promise in PROMISES[extras]:
        keep_promise(program, promise, tmp_path)


@pytest.mark.slow
def test_without_an_extra_the_commands_name_it(wheel: Path, tmp_path: Path) -> None:
    program, _ = environment(tmp_path / "venv", wheel)
    for package, name in (("payouts", "payouts"), ("webhooks", "webhook-listener")):
        done = subprocess.run([program, "-I", "-m", package], cwd=tmp_path, capture_output=True, text=True, check=False)
        wanted = f"{name} needs the package typer. Run pip install 'rewards-async[cli]'.\n"
        assert (done.returncode, done.stderr) == (2, wanted)
