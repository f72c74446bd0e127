"""The folder of a run that is not finished: its last checkpoint, from which it goes on after a kill."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_efficiency import Engine, Ranks
from megatron.checkpoint.engine_state import agreed_checkpoint, load_engine, save_engine
from megatron.checkpoint.files import LATEST_FILE, read_state
from megatron.checkpoint.run import held_folder
from megatron.config import CheckpointConfig


@dataclass(kw_only=True)
class SavedRun:
    """Where checkpoints lie, how often one is written, and whose they are."""

    folder: Path
    interval: int
    """Steps between two of them; the last one is kept."""
    settings: Mapping[str, Any]
    """Plain JSON data; a run goes on only with its own."""

    @contextlib.contextmanager
    def held(self, ranks: Ranks) -> Iterator[None]:
        """Hold the folder, for all processes: nobody else saves there within the block.

        Raises:
            BlockingIOError: if another run does.
        """
        config = CheckpointConfig(save=str(self.folder), load=str(self.folder))
        with held_folder(config, ranks):
            yield

    def save_when_due(self, engine: Engine, progress: Any) -> None:
        """Write a checkpoint if it is time for one."""
        if engine.counters.steps % self.interval == 0:
            self.save(engine, progress)

    def save(self, engine: Engine, progress: Any) -> None:
        """Write a checkpoint; `progress` is the loop's own, plain JSON data."""
        state = {"settings": dict(self.settings), "progress": progress}
        save_engine(engine, self.folder, state, keep_last=1)

    def resume(self, engine: Engine) -> Any:
        """The loop's own progress, with the engine where the last checkpoint was written; None if none was.

        Raises:
            ValueError: if the checkpoint is of other settings, or none is whole.
        """
        checkpoint = agreed_checkpoint(engine, self.folder, moves_damaged=True, say=print)
        if checkpoint is None:
            return None
        state = read_state(checkpoint, verified=True)
        refuse_other_settings(checkpoint, state["settings"], self.settings)
        load_engine(engine, checkpoint, state["engine"])
        return state["progress"]

    def remove(self) -> None:
        """Remove the checkpoints, once the run's results are written."""
        (self.folder / LATEST_FILE).unlink(missing_ok=True)
        for checkpoint in self.folder.glob("global_step*"):
            shutil.rmtree(checkpoint)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def refuse_other_settings(path: Path, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise ValueError unless what lies at `path` was made with the run's own settings."""
    differing = [name for name in {**own, **found} if found.get(name) != own.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"{path} is of another run: its {name} is {found.get(name)!r}, here {own.get(name)!r}; "
            "name another folder, or remove it"
        )
