"""Writing a checkpoint: every process its share of the tensors, process 0 the rest and the name of it all.

Begun between two steps: tensors are gathered in turns, and a thread writes this process's while others get theirs. It is
finished at once or, where the thread writes from copies on the host, after some more steps. Until
process 0 has renamed the folder and replaced the pointer, the run's last checkpoint is the one before.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread, get_native_id
from typing import Any

import numpy as np
import torch

from data_efficiency import Ranks, files
from data_efficiency.engine.whole_tensor import WholeTensor
from data_efficiency.files import result_folder
from megatron.checkpoint.files import (
    AVERAGE_FILE,
    FORMAT,
    LATEST_FILE,
    MODEL,
    OPTIMIZER,
    PREFIX,
    SHARED_VERSION,
    STATE_FILE,
    VERSION,
    checkpoint_folder,
    set_aside,
    steps_on_disk,
)
from megatron.checkpoint.handover import Handover
from megatron.checkpoint.pace import UNPACED, Pace
from megatron.checkpoint.shares import divide, held_on_host, in_turns, index_name
from megatron.checkpoint.tensor_file import write_tensor_file

_DIGEST_NUMBERS = 4
"""A SHA-256 as integers of 64 bits."""
_NOTHING: Mapping[str, Any] = {"num_bytes": 0, "sha256": "00" * 8 * _DIGEST_NUMBERS}
"""Entry of a process without a file."""
_NO_FOLDER = -1
_LOOK_AHEAD = 1
"""Tensors that wait to be written, beside the one that is and the one that is gathered."""
_NICENESS = 19
"""Of a thread that writes in the background: it takes what training leaves of the cores."""


class Save:
    """A checkpoint on its way to disk. All processes of a run make one, and finish it before the next.

    What killed saves left behind is removed first. Memory holds three tensors at a time at most, or with `in_background` a
    copy of this process's share.

    Args:
        run: folder of the run, which all processes see; nobody else may be saving there.
        weights: by their plain names; the same on every process.
        optimizer_state: by `<weight>.<name of the state>`, likewise.
        state: plain JSON data; process 0's is written.
        average: of the weights, by their plain names, which process 0 has where the run keeps one.
        ranks: this process among all.
        in_background: whether a thread writes while training goes on, slowly until `finish` waits for it.

    Raises:
        OSError: if it cannot be begun; what was there before is untouched.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        *,
        weights: Iterable[WholeTensor],
        optimizer_state: Iterable[WholeTensor],
        state: Mapping[str, Any],
        average: Iterable[WholeTensor] = (),
        ranks: Ranks | None = None,
        in_background: bool = False,
    ) -> None:
        self._run, self._step = run, step
        self._ranks = Ranks() if ranks is None else ranks
        self._target = checkpoint_folder(run, step)
        self._state = json.dumps(state, indent=1) + "\n"
        self._entries: dict[str, dict[str, Any]] = {}
        self._error: Exception | None = None
        self._pace = Pace() if in_background else UNPACED
        self._stack = contextlib.ExitStack()
        try:
            self._folder = self._agreed_folder()
            self._shares = [
                divide(stem, tensors, self._ranks.world)
                for stem, tensors in ((MODEL, weights), (OPTIMIZER, optimizer_state))
            ]
            self._begin([*average], in_background)
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise

    @property
    def is_written(self) -> bool:
        """Whether this process's share is on disk, or has failed."""
        return not self._thread.is_alive()

    def finish(self, *, keep_last: int) -> Path:
        """The folder of the checkpoint, complete and on disk; waits for what is written in the background.

        Args:
            keep_last: this many checkpoints up to this step are kept, older ones removed; 0 keeps all.

        Raises:
            OSError: if a process could not write its share; what was there before is untouched.
            NonFiniteError: for a number that is not finite: what cannot be trained on is not saved.
        """
        try:
            self._pace.hurry()
            self._thread.join()
            table = self._ranks.table(self._report())
            failed = [rank for rank, row in enumerate(table) if not row[0]]
            if failed:
                raise self._error or OSError(
                    f"process {failed[0]} could not write its share: see its message"
                )
            self._publish(table, keep_last)
        except OSError as error:
            self._stack.__exit__(*sys.exc_info())
            raise OSError(
                f"checkpoint {self._target} could not be written ({error.strerror or error}); earlier "
                f"checkpoints are untouched: make room there, then continue with --load {self._run}"
            ) from error
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        return self._target

    def _agreed_folder(self) -> Path:
        """The folder that process 0 has made, which becomes the checkpoint."""
        number = _NO_FOLDER
        try:
            if self._ranks.is_first:
                for name in (f"{PREFIX}*", LATEST_FILE):
                    result_folder.remove_leftovers(self._run / name)
                manifest = self._target / result_folder.MANIFEST_FILE
                if self._target.is_dir() and not manifest.is_file():
                    set_aside(self._target)
                folder = self._stack.enter_context(
                    result_folder.new_folder(self._target, overwrite=True)
                )
                number = result_folder.number_of(folder)
        finally:
            # The others wait for a word also where there is none.
            number = self._ranks.first_of(number)
        if number == _NO_FOLDER:
            raise OSError(f"process 0 could not begin a checkpoint in {self._run}: see its message")
        return result_folder.numbered(self._target, number)

    def _begin(self, average: list[WholeTensor], in_background: bool) -> None:
        """Gather all tensors with all processes, and have this one's written."""
        handover = Handover(None if in_background else _LOOK_AHEAD)
        rank = self._ranks.rank
        own = {
            shares.names[rank]: [
                replace(tensor, gather=handover.take, send=None)
                for tensor in shares.tensors
                if shares.owners[tensor.name] == rank
            ]
            for shares in self._shares
            if rank < shares.num_files
        }
        if average:
            whole = [tensor.gather() for tensor in average]
            if in_background:
                whole = [held_on_host(one) for one in whole]
            own[AVERAGE_FILE] = [
                replace(tensor, gather=partial(_same, one), send=None)
                for tensor, one in zip(average, whole, strict=True)
            ]
        # It must not keep a process alive that has lost the others.
        self._thread = Thread(target=self._write, args=(own, handover, in_background), daemon=True)
        self._thread.start()
        try:
            for shares in self._shares:
                for owner, tensor in in_turns(shares):
                    found = tensor.on(owner)
                    if owner == rank:
                        assert found is not None
                        handover.give(held_on_host(found) if in_background else found)
            if not in_background:
                self._thread.join()
        except BaseException:
            handover.close()
            self._thread.join()
            raise

    def _write(
        self, own: Mapping[str, list[WholeTensor]], handover: Handover, in_background: bool
    ) -> None:
        """Write this process's files, and keep what goes wrong for the end."""
        # A thread's niceness is its own on Linux; elsewhere it would be the process's.
        if in_background and sys.platform == "linux":
            # Where it is forbidden, saves go on without.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICENESS)
        try:
            for name, tensors in own.items():
                self._entries[name] = write_tensor_file(self._folder / name, tensors, self._pace)
                files.sync_to_disk(self._folder / name)
            if self._ranks.is_first:
                (self._folder / STATE_FILE).write_text(self._state)
        except Exception as error:  # noqa: BLE001 - whatever it is, `finish` raises it on the caller's thread
            self._error = error
        finally:
            handover.close()

    def _report(self) -> list[int]:
        """Whether all is written, and of each share its bytes and its SHA-256."""
        row = [int(self._error is None)]
        for shares in self._shares:
            entry = next((self._entries[n] for n in shares.names if n in self._entries), _NOTHING)
            digest = np.frombuffer(bytes.fromhex(entry["sha256"]), np.int64)
            row += [entry["num_bytes"], *digest.tolist()]
        return row

    def _publish(self, table: np.ndarray, keep_last: int) -> None:
        """Have process 0 complete the folder, rename it and point to it; the others wait for its word."""
        is_done = 0
        try:
            if self._ranks.is_first:
                self._complete(table)
                self._remove_older(keep_last)
            is_done = 1
        finally:
            is_done = self._ranks.first_of(is_done)
        if not is_done:
            raise OSError("process 0 could not complete it: see its message")

    def _complete(self, table: np.ndarray) -> None:
        entries = dict(self._entries)
        for number, shares in enumerate(self._shares):
            first = 1 + number * (1 + _DIGEST_NUMBERS)
            for rank, name in enumerate(shares.names):
                size, *digest = table[rank, first : first + 1 + _DIGEST_NUMBERS].tolist()
                sha256 = np.array(digest, np.int64).tobytes().hex()
                entries[name] = {"num_bytes": size, "sha256": sha256}
                self._look_for(name, size, rank)
            if shares.num_files > 1:
                index = self._folder / index_name(shares.stem)
                index.write_text(json.dumps(shares.index, indent=1) + "\n")
                entries[index.name] = result_folder.file_entry(index)
        entries[STATE_FILE] = result_folder.file_entry(self._folder / STATE_FILE)
        is_shared = any(shares.num_files > 1 for shares in self._shares)
        result_folder.write_manifest(
            self._folder,
            {
                "format": FORMAT,
                "version": SHARED_VERSION if is_shared else VERSION,
                "step": self._step,
                "files": entries,
            },
        )
        self._stack.close()
        files.write_file(self._run / LATEST_FILE, self._target.name + "\n")

    def _remove_older(self, keep_last: int) -> None:
        known = [step for step in steps_on_disk(self._run) if step <= self._step]
        for old in known[:-keep_last] if keep_last else ():
            result_folder.remove_folder(checkpoint_folder(self._run, old))

    def _look_for(self, name: str, size: int, rank: int) -> None:
        """Raise OSError unless a process's file is here, as long as it was written."""
        path = self._folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise OSError(
                f"process {rank} wrote {size} bytes to {path}, which process 0 does not see: --save must be a "
                "folder that all processes share"
            )


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def save_checkpoint(run: Path, step: int, *, keep_last: int, **content: Any) -> Path:
    """The folder of a new checkpoint, complete and on disk; arguments and errors as `Save` and its `finish`."""
    return Save(run, step, **content).finish(keep_last=keep_last)
