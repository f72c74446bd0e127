"""An engine's way to disk and back, whatever loop trains with it: pretraining, finetuning, your own.

Every process calls each function: each writes its share, and process 0 says which checkpoint all of them read.
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
    set_aside,
)
from megatron.checkpoint.saving import Save

_NOTHING_THERE, _NOTHING_WHOLE = -1, -2
_NUM_TENSORS = "num_optimizer_tensors"


def begin_save(
    engine: Engine,
    run: Path,
    state: Mapping[str, Any],
    *,
    average: Iterable[WholeTensor] = (),
    in_background: bool = False,
) -> Save:
    """A checkpoint of the present step on its way; all processes finish it before they begin the next.

    Args:
        engine: between two steps.
        run: folder of the run's checkpoints.
        state: the run's own, plain JSON data; "engine" is added.
        average: of the weights, which process 0 holds; none where there is none.
        in_background: as in `Save`.
    """
    optimizer_state = engine.whole_optimizer_state()
    progress = {**engine.progress_state(), _NUM_TENSORS: len(optimizer_state)}
    return Save(
        run,
        engine.counters.steps,
        weights=engine.whole_weights(),
        optimizer_state=optimizer_state,
        state={**state, "engine": progress},
        average=average,
        ranks=engine.ranks,
        in_background=in_background,
    )


def save_engine(engine: Engine, run: Path, state: Mapping[str, Any], *, keep_last: int) -> None:
    """Write a checkpoint of the present step; arguments and errors as those of `Save`."""
    begin_save(engine, run, state).finish(keep_last=keep_last)


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
