#!/usr/bin/env bash
# How difficult is each sample of a GPT corpus? The map step: each worker computes its part.
#
#   DATA_PATH=tokens/my_text_document SEQ_LENGTH=2048 SAVE=difficulty bash ds_analyze_gpt_data_map.sh
#   ... then ds_analyze_gpt_data_reduce.sh with the same settings
#
#   LAUNCHER=slurm NUM_WORKERS=16 DATA_PATH=... SEQ_LENGTH=2048 SAVE=difficulty bash ds_analyze_gpt_data_map.sh
#   ... submits an array of 16 tasks and the reduce step as a job that waits for them
#
# Settings: DATA_PATH (without .bin and .idx), SEQ_LENGTH, SPLIT (969,30,1), and those at the top of
# ../analysis_jobs.sh. Run again after a failure, it computes only what is missing. Rarity needs the
# frequency of every token: where SAVE has no total_vocab_freq yet, that is counted first.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../analysis_jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../analysis_jobs.sh"
set_dataset gpt
map_all
