"""Storage in memory, and a cache of one test's own."""

import pytest

from data_efficiency.files.remote import RemotePath


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """An empty folder of fsspec's memory system."""
    monkeypatch.setenv("DATA_EFFICIENCY_CACHE", str(tmp_path / "cache"))
    folder = RemotePath(f"memory://{tmp_path.name}/{id(tmp_path)}")
    yield folder
    folder.remove_all()
