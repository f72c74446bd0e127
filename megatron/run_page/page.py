"""The page itself: for a server that keeps it live, or whole in one file."""

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_efficiency.picture import (
    BASELINE_COLOUR,
    COLOURS,
    DARK_BASELINE_COLOUR,
    DARK_COLOURS,
)

ASSETS = Path(__file__).parent / "assets"
STYLES = ("page.css",)
SCRIPTS = ("format.js", "charts.js", "tables.js", "texts.js", "page.js")
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

FILE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
"""Of a page in one file: it asks nobody for anything."""


@dataclass(frozen=True)
class Asset:
    """What is sent for a path."""

    content: bytes
    kind: str
    """Media type."""


def plots_library() -> str:
    """The source of plotly.js.

    Raises:
        ModuleNotFoundError: if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ModuleNotFoundError(
            "the page needs plotly: pip install 'data-efficiency[watch]'"
        ) from error
    return str(get_plotlyjs())


def live_assets(title: str) -> dict[str, Asset]:
    """Path -> what a server sends for it."""
    scripts = ("plotly.js", *SCRIPTS)
    heads = [f'<link rel="stylesheet" href="{name}">' for name in STYLES]
    tags = [_settings(title), *(f'<script src="{name}"></script>' for name in scripts)]
    page = _page(title, "\n".join(heads), "\n".join(tags))
    found = {"/": Asset(page.encode(), "text/html")}
    found["/plotly.js"] = Asset(plots_library().encode(), "text/javascript")
    for name in STYLES:
        found[f"/{name}"] = Asset((ASSETS / name).read_bytes(), "text/css")
    for name in SCRIPTS:
        found[f"/{name}"] = Asset((ASSETS / name).read_bytes(), "text/javascript")
    return found


def static_page(title: str, snapshot: Any, written: str) -> str:
    """The page in one file that needs nothing else.

    Args:
        written: when the snapshot was taken, for the reader.
    """
    policy = f'<meta http-equiv="Content-Security-Policy" content="{FILE_POLICY}">'
    styles = policy + "".join(f"<style>\n{(ASSETS / name).read_text()}</style>" for name in STYLES)
    sources = [plots_library(), *((ASSETS / name).read_text() for name in SCRIPTS)]
    scripts = [_settings(title, written=written), _data("snapshot", snapshot)]
    scripts += [f"<script>\n{source}\n</script>" for source in sources]
    return _page(title, styles, "\n".join(scripts))


def _page(title: str, styles: str, scripts: str) -> str:
    text = (ASSETS / "page.html").read_text(encoding="utf-8")
    for place, content in (("title", html.escape(title)), ("styles", styles), ("scripts", scripts)):
        text = text.replace(f"<!-- {place} -->", content, 1)
    return text


def _settings(title: str, **more: Any) -> str:
    """What the scripts need to know beside the runs."""
    light, dark = (BASELINE_COLOUR, *COLOURS), (DARK_BASELINE_COLOUR, *DARK_COLOURS)
    return _data("settings", {"title": title, "colours": {"light": light, "dark": dark}, **more})


def _data(name: str, content: Any) -> str:
    """JSON data as an element of the page, which no text in it can end."""
    text = json.dumps(content, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'
