"""What the pages name is there: scripts, and names to import."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

import data_efficiency
from megatron.study import read_study
from tools import preprocess_data

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPT = re.compile(
    r"(?<![\w/.-])(?:tools|benchmarks|examples_deepspeed)/[\w./-]*\w\.(?:py|sh|toml)\b"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_scripts_that_a_page_names_exist(page):
    missing = {name for name in SCRIPT.findall(page.read_text()) if not (ROOT / name).is_file()}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_that_a_page_imports_are_there(page):
    text = page.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"`(from data_efficiency import [\w, ]+)`", text)
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "data_efficiency":
                unknown = [one.name for one in node.names if not hasattr(data_efficiency, one.name)]
                assert unknown == [], block


def test_the_example_of_a_study_is_one(tmp_path):
    page = (ROOT / "docs" / "studies.md").read_text()
    block = page.partition("## The file\n")[2].partition("\n| key")[0]
    path = tmp_path / "study.toml"
    path.write_text(textwrap.dedent(block))
    study = read_study(path)
    assert [*study.arms] == ["baseline", "random_ltd", "small_batch", "both"]
    [stage] = study.prepare
    script, *flags = stage.command
    assert script == "tools/preprocess_data.py"
    asked = preprocess_data.parse_arguments(flags)
    assert asked.tokenizer_file is not None
    corpus = f"{asked.output_prefix}_{asked.json_keys[0]}_document"
    assert stage.makes == f"{corpus}.idx"
    assert f'data_path = ["{corpus}"]' in block
