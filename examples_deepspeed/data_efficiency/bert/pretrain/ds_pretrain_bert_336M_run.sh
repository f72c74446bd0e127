#!/usr/bin/env bash
# Pretrains a BERT by a published recipe; the settings are those at the top of ../../../launch.sh.
#
#   bash ds_pretrain_bert_336M_run.sh list
#   DATA_PATH=tokens/my_text_sentence SAVE=runs/a bash ds_pretrain_bert_336M_run.sh [bert_cl_ltd_1049b]
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd)"
if [[ "${1:-}" == list ]]; then
    PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}" \
        exec "${PYTHON:-python}" "$REPOSITORY/tools/recipe.py" list bert
fi
if [[ $# == 0 ]]; then set -- bert_cl_ltd_1049b; fi
exec bash "$REPOSITORY/examples_deepspeed/launch.sh" "$@"
