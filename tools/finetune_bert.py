"""Finetunes a BERT on a GLUE task, or on a classification of your own: one task, one learning rate, one seed.

python tools/finetune_bert.py --pretrained runs/bert --data glue --task RTE --lr 2e-5 --save runs/rte
python tools/study.py run examples_deepspeed/data_efficiency/bert/finetune/study.toml --set pretrained=runs/bert

torchrun --nproc_per_node 8 tools/finetune_bert.py ...      on 8 processes

The model is a run of ours or a Hugging Face BERT. A run that was stopped goes on from its last checkpoint. The
defaults are the published hyperparameters; the second line is the published sweep. Scores are of the development
sets; no test file is read.
"""

from collections.abc import Sequence

from megatron.command import run_command

from megatron.arguments import parse_run_config
from megatron.finetuning.run import process_group, ready
from megatron.finetuning.training import finetune_bert


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 at the end of the run, 75 where it is saved and not finished, 1 after an error."""

    def carry_out(words: Sequence[str]) -> int:
        config = parse_run_config(__doc__ or "", words, architecture="bert_finetuning")
        with process_group():
            return finetune_bert(ready(config))

    return run_command(carry_out, argv)


if __name__ == "__main__":
    raise SystemExit(main())
