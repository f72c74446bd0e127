"""DeepSpeed's compiled operators: none where PyTorch has the same, and no wait for a build that was killed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.ops.op_builder.builder import OpBuilder
from torch.utils import cpp_extension

from data_efficiency.files.lock import file_lock
from data_efficiency.json_section import ConfigError


def without_needless_builds(sections: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The sections with PyTorch's Adam where there is no accelerator: DeepSpeed would compile its own.

    `"torch_adam": false` in the JSON's optimizer keeps DeepSpeed's.
    """
    optimizer = sections.get("optimizer") or {}
    if device.type != "cpu":
        return dict(sections)
    # DeepSpeed would compile collectives too that only its inference calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if str(optimizer.get("type")).lower() not in ("adam", "adamw", "muon"):
        return dict(sections)
    params = {"torch_adam": True, **(optimizer.get("params") or {})}
    return {**sections, "optimizer": {**optimizer, "params": params}}


def guard_builds() -> None:
    """Let no build wait for ever for one that was killed, from now on in this process."""
    if OpBuilder.jit_load.__module__ != __name__:
        OpBuilder.jit_load = guarded(OpBuilder.jit_load)


def guarded(build: Callable[[Any, bool], Any]) -> Callable[[Any, bool], Any]:
    """An operator's `jit_load` that knows a lock which a killed build left behind.

    PyTorch's lock is a file that stays when its process dies. Processes of this library take turns by a
    lock that does not, and leave a mark while they build: a mark that is found is that of a killed one.
    """

    def jit_load(operator: Any, verbose: bool = True) -> Any:
        folder = Path(cpp_extension._get_build_directory(operator.name, verbose=False))
        lock, mark = folder / "lock", folder / ".building"
        with file_lock(folder / ".build.lock", wait=True):
            if mark.exists():
                lock.unlink(missing_ok=True)
            if lock.exists():
                raise ConfigError(
                    f"{lock} is there: another program compiles DeepSpeed's operator {operator.name}, or was "
                    "killed while it did, and DeepSpeed would wait for ever: remove the file if none is at it"
                )
            mark.touch()
            try:
                return build(operator, verbose)
            finally:
                mark.unlink()

    return jit_load
