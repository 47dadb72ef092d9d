"""The wheel holds the packages and nothing else, and everything in it imports where only the wheel is installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes"}

IMPORT_ALL = """
import importlib, pkgutil, sys
left_out, missing, *names = sys.argv[1:]
for name in missing.split():
    sys.modules[name] = None
for name in names:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not set(module.name.split(".")) & set(left_out.split()):
            importlib.import_module(module.name)
    print(package.__file__)
"""
OF_EXTRAS = "asyncpg cryptography greenlet opentelemetry prometheus_client rich typer"
OF_POSTGRES = [path.stem for folder in ("webhooks/store", "payouts/ledger") for path in (ROOT / folder).glob("postgres*.py")]
NEEDS_EXTRAS = " ".join(["__main__", "cli", "prometheus", *OF_POSTGRES])


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    (built,) = target.glob("*.whl")
    return built


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith("rewards_async-")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter that has the wheel and what it depends on, and not the source tree."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, system_site_packages=False)
    site = next((home / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "third_party.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return home / "bin" / "python"


@pytest.mark.parametrize(
    ("left_out", "missing"), [("__main__", ""), (NEEDS_EXTRAS, OF_EXTRAS)], ids=["with every extra", "without any extra"]
)
def test_everything_in_the_wheel_imports_without_the_source_tree(
    python: Path, tmp_path: Path, left_out: str, missing: str
) -> None:
    places = run(python, "-I", "-c", IMPORT_ALL, left_out, missing, *sorted(PACKAGES), cwd=tmp_path).split()
    assert len(places) == len(PACKAGES)
    assert all(Path(place).is_relative_to(python.parents[1]) for place in places)
