#!/usr/bin/env bash
# How difficult is each sample of a BERT corpus? The reduce step: the workers' parts become one index.
#
#   DATA_PATH=tokens/my_text_sentence SEQ_LENGTH=512 SAVE=difficulty bash ds_analyze_bert_data_reduce.sh
#
# The settings are those of ds_analyze_bert_data_map.sh, which with LAUNCHER=slurm submits this step too.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../analysis_jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../analysis_jobs.sh"
set_dataset bert
reduce_step "$METRIC" "${DATASET[@]}"
