import pytest

from megatron.checkpoint.run import check_folders
from megatron.config import CheckpointConfig


def test_folders(tmp_path):
    check_folders(CheckpointConfig())
    check_folders(CheckpointConfig(save=str(tmp_path / "new" / "run")))
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_folders(CheckpointConfig(save=str(tmp_path / "file" / "run")))
    old = tmp_path / "old"
    (old / "global_step1").mkdir(parents=True)
    (old / "latest").write_text("global_step1\n")
    with pytest.raises(
        ValueError, match="holds another run's checkpoints: continue it with --load"
    ):
        check_folders(CheckpointConfig(save=str(old)))
    check_folders(CheckpointConfig(save=str(old), load=str(old)))
