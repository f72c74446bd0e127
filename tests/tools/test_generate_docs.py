import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from data_efficiency.json_keys import JSON_KEYS
from megatron.arguments import make_parser
from megatron.config import CONFIG_GROUPS
from tools.generate_docs import main, render_group, render_page, render_table


@dataclass(frozen=True, kw_only=True)
class KitchenConfig:
    """What the kitchen does."""

    recipe: str
    """File with the recipe."""
    num_eggs: int = 2
    """Eggs | per
    cake."""
    oven: Literal["gas", "electric"] = "gas"
    """Kind of oven."""
    grams: float | None = None
    """Weight."""
    frosting: bool = False
    """Sugar on top."""


@dataclass(frozen=True, kw_only=True)
class SilentConfig:
    """Says too little."""

    num_eggs: int = 2


def test_group_is_rendered() -> None:
    assert render_group(KitchenConfig).splitlines() == [
        "## Kitchen",
        "",
        "What the kitchen does.",
        "",
        "| flag | values | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `--recipe` | text | required | File with the recipe. |",
        "| `--num-eggs` | whole number | `2` | Eggs \\| per cake. |",
        "| `--oven` | `gas`, `electric` | `gas` | Kind of oven. |",
        "| `--grams` | number | not given | Weight. |",
        "| `--frosting / --no-frosting` | switch | off | Sugar on top. |",
    ]


def test_field_without_docstring_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"SilentConfig\.num_eggs has no docstring"):
        render_group(SilentConfig)


def test_table_has_one_row_a_line() -> None:
    assert render_table(("a", "b"), [("1", "2|3")]) == "| a | b |\n| --- | --- |\n| 1 | 2\\|3 |\n"


def test_page_names_every_flag_and_key() -> None:
    page = render_page(CONFIG_GROUPS, JSON_KEYS)
    assert [key for key in JSON_KEYS if f"| `{key}` |" not in page] == []
    usage = make_parser("").format_usage()
    flags = set(re.findall(r"--[\w-]+", usage))
    assert len(flags) > 50
    assert [flag for flag in flags if flag not in page] == []


def test_check_tells_a_stale_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "docs" / "config.md"
    assert main(["--check"], page) == 1
    assert "make docs" in capsys.readouterr().err
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    page.write_text(page.read_text().replace("Width", "Breadth", 1))
    assert main(["--check"], page) == 1


def test_shipped_page_is_current() -> None:
    assert main(["--check"]) == 0
