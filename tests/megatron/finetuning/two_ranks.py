"""Finetunes a small BERT on one or several processes; started as a command by test_two_ranks.py.

`two_ranks.py FOLDER NAME ENGINE SAVE_INTERVAL KILL_AT`: an engine is "torch", "fsdp2", "fsdp3", or "zero0" to "zero3"; the
process kills itself after step KILL_AT, if that is not 0. Each writes FOLDER/NAME.RANK.json, the first one FOLDER/NAME.weights.
"""

import json
import os
import signal
import sys
from pathlib import Path

from safetensors.torch import save_file

from data_efficiency import leave_ranks
from data_efficiency.engine.whole_tensor import gather_all
from megatron.finetuning.classifier import read_bert
from megatron.finetuning.data import read_task
from megatron.finetuning.inputs import make_rows
from megatron.finetuning.run import ready
from megatron.finetuning.training import make_classifier, make_run, train
from megatron.reporting import read_log
from tests.megatron.finetuning.bert_task_data import (
    DROPPING,
    glue_config,
    save_bert_run,
    write_sentiment,
)


def prepare(folder):
    """A model, and 21 examples: the last batch of an epoch has five rows."""
    save_bert_run(folder / "run")
    write_sentiment(folder / "data", num_train=21)


def main():
    """One run, or the rest of one."""
    folder, name, kind, interval, kill_at = Path(sys.argv[1]), *sys.argv[2:]
    model, tokenizer = read_bert(folder / "run")
    task, examples = read_task(folder / "data", "SST-2")
    sets = {part: (make_rows(found, tokenizer, 32), found) for part, found in examples.items()}
    zero = {"stage": int(kind[-1])} if kind.startswith("zero") else {}
    config = glue_config(
        folder / f"{name}.saved",
        section=DROPPING,
        engine={"zero_optimization": zero, "zero_allow_untested_optimizer": True} if zero else {},
        save_interval=int(interval),
        epochs=2,
        micro_batch_size=2,
        random_ltd=True,
        deepspeed=kind.startswith("zero"),
        fsdp=int(kind[-1]) if kind.startswith("fsdp") else 0,
    )
    config = ready(config)
    run = make_run(config, make_classifier(config, model, task), task, sets, {})
    engine = run.engine
    train_step = engine.train_step

    def killing(*arguments, **settings):
        result = train_step(*arguments, **settings)
        if result.counters.steps == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    engine.train_step = killing
    assert train(config, run, task, sets) == 0
    log = read_log(folder / f"{name}.saved")
    result = {
        "losses": [record["loss"] for record in log.train],
        "scores": [record["dev accuracy"] for record in log.valid],
        "counters": vars(engine.counters),
    }
    (folder / f"{name}.{engine.ranks.rank}.json").write_text(json.dumps(result))
    weights = gather_all(engine.whole_weights(), keep=engine.ranks.is_first)
    if engine.ranks.is_first:
        save_file({key: part.clone() for key, part in weights.items()}, folder / f"{name}.weights")
    leave_ranks()


if __name__ == "__main__":
    main()
