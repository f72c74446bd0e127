from dataclasses import dataclass
from typing import Literal

import pytest

from tests.data_efficiency.config.test_file import LEGACY, PUBLISHED
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


def test_group_is_rendered():
    assert render_group("[kitchen]", KitchenConfig).splitlines() == [
        "## [kitchen]",
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


def test_field_without_docstring_is_an_error():
    with pytest.raises(ValueError, match=r"SilentConfig\.num_eggs has no docstring"):
        render_group("[silent]", SilentConfig)


def test_table_has_one_row_a_line():
    assert render_table(("a", "b"), [("1", "2|3")]) == "| a | b |\n| --- | --- |\n| 1 | 2\\|3 |\n"


def leaf_keys(content, where=""):
    for key, value in content.items():
        if isinstance(value, dict) and key not in ("dynamic_batching", "curriculum_metrics"):
            yield from leaf_keys(value, f"{where}{key}.")
        else:
            yield f"{where}{key}"


def test_every_published_key_is_in_the_page():
    page = render_page()
    section = PUBLISHED["data_efficiency"]
    metrics = section["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
    dropping = section["data_routing"]["random_ltd"]
    found = [*leaf_keys(dropping, "RANDOM_LTD."), *leaf_keys(LEGACY, "curriculum_learning.")]
    found += [key for metric in metrics.values() for key in leaf_keys(metric, "METRIC.")]
    found += ["data_efficiency.data_sampling.curriculum_learning.curriculum_metrics", "seed"]
    found = [key for key in found if not key.startswith("curriculum_learning.schedule_config.")]
    assert [key for key in found if f"| `{key}` |" not in page] == ["seed"]
    assert "| `METRIC.schedule_config.max_step` | list of whole numbers | required |" in page


def test_check_tells_a_stale_page(tmp_path, capsys):
    page = tmp_path / "docs" / "config.md"
    assert main(["--check"], page) == 1
    assert "make docs" in capsys.readouterr().err
    assert main([], page) == 0
    assert main(["--check"], page) == 0
    page.write_text(page.read_text().replace("Width", "Breadth", 1))
    assert main(["--check"], page) == 1


def test_shipped_page_is_current():
    assert main(["--check"]) == 0
