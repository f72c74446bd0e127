"""How Sphinx makes the site: `make docs-site` writes it to build/site.

The source is the repository itself, so that each link is right on a forge, in an editor and here: README.md is the
first page, the pages of docs/ lie below it. Nothing of the project is imported, and no page loads anything from elsewhere.
"""

import re
from pathlib import Path
from typing import Any

project = "Data efficiency for transformers"
author = "The data-efficiency developers"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/notebooks/*.ipynb",
]
extensions = ["myst_nb"]
nb_execution_mode = "off"  # they are kept as they were executed; a test executes them again
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = project
html_extra_path = ["extra"]
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

NAVIGATION = {
    "Start": ["docs/concepts", "docs/which_technique"],
    "In your trainer": [
        "docs/bring_your_own_model",
        "docs/notebooks/curriculum_in_trainer",
        "docs/random_ltd",
        "docs/routes",
        "docs/finetuning",
        "docs/glue",
    ],
    "Data": ["docs/analysis", "docs/orders", "docs/notebooks/look_at_difficulty"],
    "Pretraining": [
        "docs/watching",
        "docs/checkpoints",
        "docs/bert",
        "docs/evaluation",
        "docs/studies",
        "docs/engines",
        "docs/cluster",
    ],
    "Coming from elsewhere": ["docs/from_deepspeed", "docs/migration"],
    "What it brings": ["docs/evidence", "docs/performance"],
    "Reference": ["docs/config", "CHANGELOG", "CONTRIBUTING"],
}
"""Heading -> pages, in the order of the site's menu. A page that there is not, yet, is left out; one that is in no
place here is a warning, and so an error."""

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)\)")


def with_menu(text: str) -> str:
    """The first page with the menu behind it."""
    parts = [text]
    for heading, pages in NAVIGATION.items():
        there = [page for page in pages if any(map(Path.is_file, _files(page)))]
        parts.append(
            "\n".join(["\n```{toctree}", ":hidden:", f":caption: {heading}", *there, "```"])
        )
    return "\n".join(parts)


def _files(page: str) -> list[Path]:
    return [ROOT / f"{page}{ending}" for ending in (".md", ".ipynb")]


def without_folders(text: str, folder: Path) -> str:
    """A page's text in which a link to a folder, which a site cannot show, is its words."""
    return _LINK.sub(
        lambda link: link[1] if (folder / link[2]).is_dir() else link[0],
        text,
    )


def _read(_: Any, page: str, source: list[str]) -> None:
    source[0] = without_folders(source[0], (ROOT / page).parent)
    if page == root_doc:
        source[0] = with_menu(source[0])


def setup(app: Any) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", _read)
