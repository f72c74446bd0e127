#!/usr/bin/env bash
# Pretrains a BERT by a published recipe; `list` names them, and ../../../launch.sh says how it is started.
#   bash ds_pretrain_bert_336M_run.sh bert_cl_ltd_1049b --data-path tokens/my_text_sentence --save runs/a
set -euo pipefail

if [[ "${1:--}" == -* ]]; then set -- bert_cl_ltd_1049b "$@"; fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../launch.sh" pretrain_bert.py --config "$@"
