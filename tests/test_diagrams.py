"""The diagrams of the site say what the code says, and read in both colour schemes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs._ext.command_lines import commands_of
from docs._ext.diagram import DIAGRAMS, MARKER
from docs._ext.public_names import PACKAGES
from payouts.states import BY_HAND_ONLY, WAYS_WITH_LOOKUP, WAYS_WITHOUT_LOOKUP, State
from tests.site_kit import ROOT

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("flow", "states", "floors", "fleet")
LOOK = (DIAGRAMS / "diagrams.css").read_text("utf-8")
ALLOWED = frozenset(
    {
        *("viewBox", "role", "aria-labelledby", "id", "class", "x", "y", "width", "height", "rx", "d"),
        *("orient", "refX", "refY", "markerWidth", "markerHeight", "markerUnits", "marker-start", "marker-end"),
        *("data-ways", "data-package", "data-command"),
    }
)


def diagram(name: str) -> ET.Element:
    return ET.parse(DIAGRAMS / f"{name}.svg").getroot()


def ways(drawing: ET.Element) -> set[tuple[str, ...]]:
    """Return what the arrows and notes lead from and to."""
    return {tuple(way.split("-")) for each in drawing.iter() for way in each.get("data-ways", "").split()}


def arrows(drawing: ET.Element, *, dashed: bool) -> set[tuple[str, ...]]:
    """Return what the arrows of one sort lead from and to."""
    marked = [each for each in drawing.iter(f"{SVG}path") if (each.get("class") == "hand") is dashed]
    return {tuple(way.split("-")) for each in marked for way in each.get("data-ways", "").split()}


def test_every_diagram_is_known_to_these_tests() -> None:
    assert {path.stem for path in DIAGRAMS.glob("*.svg")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_reader_is_told_what_a_diagram_shows(name: str) -> None:
    drawing = diagram(name)
    title, described = drawing.find(f"{SVG}title"), drawing.find(f"{SVG}desc")
    assert title is not None
    assert described is not None
    assert len(title.text or "") > 10
    assert len(described.text or "") > 200
    assert drawing.get("role") == "img"
    assert drawing.get("aria-labelledby") == f"{title.get('id')} {described.get('id')}"


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_has_no_colours_and_no_sizes_of_its_own(name: str) -> None:
    used = {attribute for each in diagram(name).iter() for attribute in each.attrib}
    assert used <= ALLOWED, used - ALLOWED
    assert not any(each.tag == f"{SVG}style" for each in diagram(name).iter())


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_can_stand_beside_others_on_a_page(name: str) -> None:
    drawing = diagram(name)
    assert all(each.get("id", name).startswith(name) for each in drawing.iter())
    known = {each.get("id") for each in drawing.iter()}
    for each in drawing.iter():
        for end in ("marker-start", "marker-end"):
            if wanted := each.get(end):
                assert wanted.removeprefix("url(#").removesuffix(")") in known


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_is_narrow_enough_for_a_telephone(name: str) -> None:
    width = float(diagram(name).attrib["viewBox"].split()[2])
    (smallest,) = (float(each) for each in re.findall(r"\.diagram svg \{.*min-width: (\d+)px", LOOK))
    sizes = [float(each) for each in re.findall(r"font-size: ([\d.]+)px", LOOK)]
    assert smallest <= 343, "a telephone of 390 px leaves so much between its margins and beside a scroll bar"
    assert len(sizes) > 2
    assert min(sizes) * smallest / width >= 11


def test_all_colours_are_variables_that_follow_the_theme() -> None:
    styled = re.sub(r"--diagram-\w+: #[0-9a-f]{6};", "", LOOK)
    values = re.findall(r"(?<![\w-])(?:color|fill|stroke|background):\s*([^;]+);", styled)
    assert len(values) > 8
    assert [each for each in values if not re.fullmatch(r"var\(--[\w-]+\)|currentColor|none", each)] == []
    assert "#" not in styled
    assert {len(re.findall(rf"--diagram-{name}: #", LOOK)) for name in ("good", "bad", "open")} == {3}


def schemes() -> list[dict[str, str]]:
    """Return the colours of the light and of the dark scheme."""
    theme = (files("furo") / "theme/furo/static/styles/furo.css").read_text("utf-8")
    found: list[dict[str, str]] = [{}, {}]
    for name, value in re.findall(r"(--(?:color|diagram)-[\w-]+):\s*(#[0-9a-f]{3,6})\b", theme + LOOK):
        scheme = found[1] if name in found[0] else found[0]
        scheme.setdefault(name, value)
    return found


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(each * 2 for each in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_text_and_lines_stand_out_in_both_schemes(scheme: dict[str, str]) -> None:
    backgrounds = [scheme["--color-background-primary"], scheme["--color-background-secondary"]]
    for name, background in product(("--color-foreground-primary", "--color-foreground-secondary"), backgrounds):
        assert contrast(scheme[name], background) >= 4.5, name
    for name, background in product(("--diagram-good", "--diagram-bad", "--diagram-open"), backgrounds):
        assert contrast(scheme[name], background) >= 4.5, name


def test_every_state_of_a_row_is_drawn_and_no_other() -> None:
    names = [each.text for each in diagram("states").iter(f"{SVG}text") if "name" in each.get("class", "").split()]
    assert sorted(names, key=str) == sorted(State)


def test_every_way_between_states_is_drawn_and_no_other() -> None:
    allowed = {(one, to) for known in (WAYS_WITH_LOOKUP, WAYS_WITHOUT_LOOKUP) for one in known for to in known[one] if one != to}
    assert ways(diagram("states")) == {(one.value, to.value) for one, to in allowed}


def test_what_only_a_person_decides_is_dashed() -> None:
    drawing = diagram("states")
    dashed, solid = arrows(drawing, dashed=True), arrows(drawing, dashed=False)
    assert {("rejected", "planned"), ("failed", "planned"), ("unknown", "rejected"), ("rejected", "unknown")} == dashed
    assert not dashed & solid
    assert [way for way in solid if (State(way[0]), State(way[1])) in BY_HAND_ONLY] == []


def test_every_package_is_a_floor_and_nothing_else() -> None:
    floors = [each.get("data-package") for each in diagram("floors").iter() if each.get("data-package")]
    assert sorted(map(str, floors)) == sorted(PACKAGES)
    assert all((ROOT / str(floor) / "__init__.py").exists() for floor in floors)
    assert [each.text for each in diagram("floors").iter() if each.get("data-package")] == floors


def imports(package: str) -> dict[str, set[str]]:
    """Return for each other package which modules of this one import it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text("utf-8"), re.MULTILINE):
            if name in PACKAGES and name != package:
                found.setdefault(name, set()).add(path.relative_to(ROOT / package).as_posix())
    return found


def test_the_arrows_between_floors_are_the_imports_of_the_code() -> None:
    used = {(package, name) for package in PACKAGES if package != "vendor_sandboxes" for name in imports(package)}
    drawing = diagram("floors")
    assert ways(drawing) == used
    assert arrows(drawing, dashed=True) == {("webhooks", "original_async")}
    assert all(module.startswith("cli/") for module in imports("webhooks")["original_async"])


def test_the_programs_of_a_fleet_are_commands() -> None:
    named = [each for each in diagram("fleet").iter() if each.get("data-command")]
    assert len(named) == 2
    for each in named:
        program, _, words = each.attrib["data-command"].partition(" ")
        assert words in {found for found, _ in commands_of(program)}
        assert (each.text or "").startswith(program)


def test_every_diagram_stands_on_one_page() -> None:
    found = [name for path in (ROOT / "docs").rglob("*.md") for name in MARKER.findall(path.read_text("utf-8"))]
    assert sorted(found) == sorted(NAMES)


def build(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    (folder / "conf.py").write_text(
        f'import sys\nsys.path.insert(0, {str(ROOT)!r})\nextensions = ["myst_parser", "docs._ext.diagram"]\n'
        f'html_theme = "furo"\nhtml_static_path = [{str(DIAGRAMS.parent)!r}]\n',
        "utf-8",
    )
    (folder / "index.md").write_text(page, "utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", str(folder), str(folder / "html")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_diagram_is_drawn_where_its_marker_stands(tmp_path: Path) -> None:
    done = build(tmp_path, "# A page\n\n" + "\n\n".join(f"Before {name}.\n\n<!-- diagram: {name} -->" for name in NAMES))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html/index.html").read_text("utf-8")
    for name in NAMES:
        drawing = (DIAGRAMS / f"{name}.svg").read_text("utf-8")
        assert f'Before {name}.</p>\n<div class="diagram">\n{drawing}</div>' in page
    (style,) = re.findall(r'href="(_static/diagrams/diagrams\.css)[?"]', page)
    assert (tmp_path / "html" / style).read_text("utf-8") == LOOK


@pytest.mark.slow
def test_a_marker_of_a_diagram_that_is_not_there_ends_the_build(tmp_path: Path) -> None:
    done = build(tmp_path, "# A page\n\n<!-- diagram: flaw -->\n")
    assert done.returncode
    assert "diagram flaw" in done.stderr
