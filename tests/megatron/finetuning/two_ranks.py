"""Finetunes a small BERT on one or several processes; started as a command by test_two_ranks.py.

`two_ranks.py FOLDER NAME ENGINE SAVE_INTERVAL KILL_AT`: an engine is "torch" or "zero0" to "zero3"; the
process kills itself after step KILL_AT, if that is not 0. Each writes FOLDER/NAME.RANK.json, the first one FOLDER/NAME.weights.
"""

import json
import os
import signal
import sys
from pathlib import Path

from safetensors.torch import save_file

from data_efficiency import gather_all, leave_ranks
from megatron.checkpoint.saved_run import SavedRun
from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.finetuning.data import read_task
from megatron.finetuning.inputs import make_rows
from megatron.finetuning.training import FinetuningConfig, finetune, make_engine
from tests.megatron.finetuning.bert_task_data import RANDOM_LTD, save_bert_run, write_sentiment

CONFIG = FinetuningConfig(epochs=2, batch_size=8, micro_batch_size=2, dropout=0.0, max_length=32)


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
    json_config = dict(RANDOM_LTD)
    if kind != "torch":
        json_config |= {
            "zero_optimization": {"stage": int(kind[-1])},
            "zero_allow_untested_optimizer": True,
        }
    engine = make_engine(
        BertClassifier(model, 2, dropout=0.0, seed=1),
        CONFIG,
        num_examples=21,
        seed=1,
        learning_rate=3e-3,
        json_config=json_config,
        deepspeed=kind != "torch",
    )
    losses = []

    def report(step, _, loss):
        losses.append(loss)
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    saved = SavedRun(folder=folder / f"{name}.saved", interval=int(interval), settings={})
    scores = finetune(engine, task, sets, CONFIG, seed=1, saved=saved, report=report)
    result = {"losses": losses, "scores": scores, "counters": vars(engine.counters)}
    (folder / f"{name}.{engine.ranks.rank}.json").write_text(json.dumps(result))
    weights = gather_all(engine.whole_weights(), keep=engine.ranks.is_first)
    if engine.ranks.is_first:
        save_file({key: part.clone() for key, part in weights.items()}, folder / f"{name}.weights")
    leave_ranks()


if __name__ == "__main__":
    main()
