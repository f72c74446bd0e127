#!/usr/bin/env bash
# A BERT finetuned on the eight GLUE tasks as the study study.toml: 4 learning rates x 5 seeds; then one report.
#   bash ds_finetune_bert_glue_run.sh --set pretrained=runs/bert --set data=glue --output results/bert
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
LAUNCHER=single exec bash "$HERE/../../../launch.sh" tools/study.py run "$HERE/study.toml" "$@"
