"""What the tree must look like: mirrored tests, telling file names, small rooms, no machine's paths, true README."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

MIRRORED_FOLDERS = ("data_efficiency", "megatron", "tools")

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
TWO_THINGS = "is two things: find the second one and give it a room of its own"

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
# Written in halves, so that this file does not accuse itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.}])/(?:" + "ho" + r"me/\w|Us" + r"ers/\w|ro" + r"ot/|wo" + r"rk/)"
)


def tracked_files() -> list[str]:
    """Files that git knows or would add; all files where there is no git checkout."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]
    folders = (*MIRRORED_FOLDERS, "tests", "examples_deepspeed", "benchmarks", "docs")
    return [
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]


def sources_without_test(files: Iterable[str]) -> Iterator[str]:
    """Sources a/b/c.py whose test tests/a/b/test_c.py is missing."""
    present = set(files)
    for path in map(PurePosixPath, sorted(present)):
        if path.suffix != ".py" or path.parts[0] not in MIRRORED_FOLDERS or path.stem == "__init__":
            continue
        test = str(PurePosixPath("tests") / path.parent / f"test_{path.name}")
        if test not in present:
            yield f"{path}: write {test}"


def vague_names(files: Iterable[str]) -> Iterator[str]:
    """Files and folders whose name does not say what is in them."""
    for path in map(PurePosixPath, files):
        for part in (*path.parent.parts, path.stem.removeprefix("test_")):
            if part.lower() in VAGUE_NAMES:
                yield f"{path}: {part} says nothing; name the one idea in it"


def long_rooms(path: str, text: str) -> Iterator[str]:
    """A source with more lines, signature and docstring among them, than a reader takes in, and each such function."""
    num_lines = len(text.splitlines())
    if num_lines > MOST_LINES_OF_A_FILE:
        yield f"{path}: what has {num_lines} lines {TWO_THINGS}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {num_lines} lines: it {TWO_THINGS}"


def machine_paths(path: str, text: str) -> Iterator[str]:
    """Absolute paths that exist on one machine only."""
    for number, line in enumerate(text.splitlines(), start=1):
        for match in MACHINE_PATH.finditer(line):
            yield f"{path}:{number}: {match.group()}..."


def unknown_make_targets(text: str, makefile: str) -> list[str]:
    """Targets a text tells the reader to make that the Makefile does not have."""
    named = set(re.findall(r"(?:^|[`$]\s?)make ([a-z][\w-]*)", text, flags=re.MULTILINE))
    return sorted(named - set(re.findall(r"^([a-z][\w-]*):", makefile, flags=re.MULTILINE)))


def test_every_source_has_its_test() -> None:
    assert list(sources_without_test(tracked_files())) == []


def test_every_name_says_something() -> None:
    assert list(vague_names(tracked_files())) == []


def test_every_room_is_small() -> None:
    sources = [path for path in tracked_files() if path.endswith(".py")]
    found = {
        path: list(long_rooms(path, (ROOT / path).read_text()))
        for path in sources
        if not path.startswith("tests/")
    }
    assert [line for lines in found.values() for line in lines] == []


def test_no_tracked_file_holds_a_machine_path() -> None:
    found = []
    for path in tracked_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content[:4096]:
            found += machine_paths(path, content.decode("utf-8", errors="replace"))
    assert found == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_existing_make_targets(page: str) -> None:
    assert unknown_make_targets((ROOT / page).read_text(), (ROOT / "Makefile").read_text()) == []


def test_the_makefile_installs_extras_that_exist() -> None:
    """pip only warns of an extra that there is not, and the command then lacks its packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = set(re.findall(r"\(VENV\)/installed-(\w+)", (ROOT / "Makefile").read_text()))
    assert "dev" in installed
    assert installed <= set(project["optional-dependencies"])


def test_quick_start_and_continuous_integration_are_in_the_makefile() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for text, target in ((readme, "demo"), (readme, "test"), (script, "check")):
        assert re.search(rf"^make {target}\b", text, flags=re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert re.search(r"^check:.*\btest\b", makefile, flags=re.MULTILINE)


def test_the_citation_is_whole() -> None:
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert [paper["identifiers"][0]["value"] for paper in found["references"]] == [
        *("arXiv:2212.03597", "arXiv:2211.11586"),
    ]


def test_missing_test_is_caught() -> None:
    files = ["megatron/data/__init__.py", "megatron/data/a.py", "tools/b.py"]
    assert list(sources_without_test([*files, "tests/tools/test_b.py"])) == [
        "megatron/data/a.py: write tests/megatron/data/test_a.py"
    ]


@pytest.mark.parametrize("path", ["a/utils.py", "helpers/b.py", "tests/test_misc.py", "Common.sh"])
def test_vague_name_is_caught(path: str) -> None:
    assert len(list(vague_names([path]))) == 1


def test_long_rooms_are_caught() -> None:
    lines = "".join(f"    a = {number}\n" for number in range(MOST_LINES_OF_A_FUNCTION - 1))
    assert list(long_rooms("a.py", f"def f():\n{lines}")) == []
    methods = f"class A:\n    def f(self):\n        def g():\n{lines.replace('    ', ' ' * 12)}            b = 1\n"
    (outer, inner) = sorted(long_rooms("a.py", methods))
    assert outer.startswith("a.py:2: f has 62 lines")
    assert inner.startswith("a.py:3: g has 61 lines")
    assert list(long_rooms("a.py", "a = 1\n" * MOST_LINES_OF_A_FILE)) == []
    (found,) = long_rooms("a.py", "a = 1\n" * (MOST_LINES_OF_A_FILE + 1))
    assert found.startswith("a.py: what has 401 lines is two things")


@pytest.mark.parametrize("folder", ["home/someone", "Users/someone", "root/x", "work/x"])
def test_machine_path_is_caught(folder: str) -> None:
    assert len(list(machine_paths("a.sh", f'DATA="/{folder}/data"'))) == 1
    assert len(list(machine_paths("a.sh", f"DATA=/{folder}"))) == 1


def test_unknown_make_target_is_caught() -> None:
    makefile = "VAR := 1\ndemo: x\n\tmake nothing\ntest-full:\n"
    assert unknown_make_targets("    make demo\nmake demo\n`make tset`", makefile) == ["tset"]
    assert unknown_make_targets("$ make test-full\nto make things", makefile) == []
