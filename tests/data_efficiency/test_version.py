import tomllib
from pathlib import Path

import data_efficiency

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_what_the_project_file_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert data_efficiency.__version__ == project["version"]
