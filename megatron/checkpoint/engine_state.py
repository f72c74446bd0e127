"""An engine's way to disk and back, whatever loop trains with it: pretraining, finetuning, your own.

Every process calls each function; process 0 writes, and says which checkpoint all of them read.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_efficiency import Engine
from data_efficiency.engine.whole_tensor import WholeTensor
from megatron.checkpoint.files import (
    checkpoint_folder,
    find_checkpoint,
    read_tensors,
    save_checkpoint,
    set_aside,
    take_part,
)

_NOTHING_THERE, _NOTHING_WHOLE = -1, -2
_NUM_TENSORS = "num_optimizer_tensors"


def save_engine(
    engine: Engine,
    run: Path,
    state: Mapping[str, Any],
    *,
    keep_last: int,
    average: Iterable[WholeTensor] = (),
) -> None:
    """Write a checkpoint of the present step.

    Args:
        engine: between two steps.
        run: folder of the run's checkpoints.
        state: the run's own, plain JSON data; "engine" is added.
        keep_last: as in `save_checkpoint`.
        average: of the weights, which process 0 holds; none where there is none.
    """
    weights, optimizer_state = engine.whole_weights(), engine.whole_optimizer_state()
    if not engine.ranks.is_first:
        take_part(weights, optimizer_state)
        return
    save_checkpoint(
        run,
        engine.counters.steps,
        weights=weights,
        optimizer_state=optimizer_state,
        state={
            **state,
            "engine": {**engine.progress_state(), _NUM_TENSORS: len(optimizer_state)},
        },
        keep_last=keep_last,
        average=average,
    )


def load_engine(engine: Engine, checkpoint: Path, progress: Mapping[str, Any]) -> None:
    """Put the engine where a checkpoint was written.

    Args:
        engine: of the same model.
        checkpoint: found whole by `agreed_checkpoint`.
        progress: its state's "engine".

    Raises:
        ValueError: if not all of the optimizer's state is there.
    """
    weights, optimizer_state = read_tensors(checkpoint)
    # Checkpoints of before do not say how many there were.
    expected, found = progress.get(_NUM_TENSORS, len(optimizer_state)), len(optimizer_state)
    if expected != found:
        raise ValueError(
            f"the optimizer's file in {checkpoint} holds {found} tensors, but {expected} were saved: it was "
            "changed; go on from another checkpoint"
        )
    engine.load_whole_weights(weights)
    engine.load_whole_optimizer_state(optimizer_state)
    engine.load_progress_state(progress)


def agreed_checkpoint(
    engine: Engine, run: Path, *, moves_damaged: bool, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to go on from, which process 0 found whole; None where the run has none.

    Args:
        engine: whose processes agree.
        run: folder of the run's checkpoints.
        moves_damaged: whether the run saves there, so that damaged ones are set aside.
        say: prints a line.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    step = _NOTHING_WHOLE
    try:
        if engine.ranks.is_first:
            found = find_checkpoint(run)
            for problem in found.problems:
                say(f"warning: {problem}")
            for damaged in found.damaged if moves_damaged else ():
                say(f"warning: {damaged.name} is set aside as {set_aside(damaged).name}")
            step = _NOTHING_THERE if found.step is None else found.step
    finally:
        # The others wait for a word also where the search failed.
        step = engine.ranks.first_of(step)
    if step == _NOTHING_WHOLE:
        raise ValueError(f"process 0 found no whole checkpoint in {run}: see its message")
    return None if step == _NOTHING_THERE else checkpoint_folder(run, step)
