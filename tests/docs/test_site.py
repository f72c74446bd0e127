"""The documentation as a site: built without a warning, so that every link leads somewhere, and whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="sphinx is not installed")
ROOT = Path(__file__).resolve().parents[2]
BUILD = ("-m", "sphinx", "-c", "docs/site", "-b", "html", "-W", "--keep-going", "-q", ".")


def pages():
    found = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]
    found += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [path.relative_to(ROOT) for path in found]


def build(output):
    command = [sys.executable, *BUILD, str(output)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    output = tmp_path_factory.mktemp("site")
    built = build(output)
    assert (built.returncode, built.stderr) == (0, "")
    return output


def test_every_page_is_in_the_site_and_in_its_menu(site):
    first = (site / "README.html").read_text()
    for page in pages():
        assert (site / page.with_suffix(".html")).is_file()
        if page.name != "README.md":
            assert f'href="{page.with_suffix(".html")}"' in first
    assert 'url=README.html"' in (site / "index.html").read_text()


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//", text)
        assert not re.search(r"<link[^>]+rel=\"stylesheet\"[^>]+href=\"(?:https?:)?//", text)
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(?:https?:)?//", style.read_text())


def test_what_a_page_shows_of_the_repository_is_in_the_site(site):
    evidence = (site / "docs" / "evidence.html").read_text()
    assert re.search(r'src="\.\./_images/[^"]+\.png"', evidence)
    assert re.search(r'href="\.\./_downloads/[^"]+\.toml"', evidence)


def test_a_broken_link_a_lost_anchor_and_a_page_without_a_place_are_warnings(tmp_path):
    copy = tmp_path / "copy"
    (copy / "docs" / "site").mkdir(parents=True)
    (copy / "docs" / "site" / "extra").mkdir()
    (copy / "docs" / "site" / "conf.py").write_text((ROOT / "docs/site/conf.py").read_text())
    (copy / "README.md").write_text("# First\n\n[folder](docs) [page](docs/concepts.md#here)\n")
    (copy / "docs" / "concepts.md").write_text("# A\n\n[a](gone.md) [b](../README.md#none)\n")
    (copy / "docs" / "lost.md").write_text("# Lost\n")
    command = [sys.executable, *BUILD, str(tmp_path / "site")]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 1
    complaints = built.stderr.strip().splitlines()
    for words in ("'here'", "gone.md", "'none'", "lost.md"):
        assert [line for line in complaints if words in line], words
    assert not [line for line in complaints if "folder" in line]
