"""Draw a diagram into a page, in place of `<!-- diagram: NAME -->`.

A drawing in an `<img>` cannot follow the theme's switch between light and dark; one that is part of the page can.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.errors import ExtensionError

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.util.typing import ExtensionMetadata

DIAGRAMS = Path(__file__).parents[1] / "_static" / "diagrams"
MARKER = re.compile(r"^<!-- diagram: (\w+) -->$", re.MULTILINE)


def _draw(app: Sphinx, docname: str, content: list[str]) -> None:
    def drawn(found: re.Match[str]) -> str:
        path = DIAGRAMS / f"{found[1]}.svg"
        if not path.exists():
            raise ExtensionError(f"{docname}: there is no diagram {found[1]}; draw it in {path}")
        env: BuildEnvironment = app.env
        env.note_dependency(str(path), docname=docname)
        return f'```{{raw}} html\n<div class="diagram">\n{path.read_text("utf-8")}</div>\n```'

    content[0] = MARKER.sub(drawn, content[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", _draw)
    app.add_css_file("diagrams/diagrams.css")
    return {"parallel_read_safe": True}
