#!/usr/bin/env bash
# Finetunes a BERT on the eight GLUE tasks with the published hyperparameters: 4 learning rates x 5 seeds.
#   bash ds_finetune_bert_glue_run.sh --checkpoint runs/bert --data glue --output results/bert
# Flags are those of tools/finetune_bert.py, settings those at the top of ../../../slurm/jobs.sh.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../../slurm/jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../slurm/jobs.sh"
sweep finetune finetune_bert.py "$@"
