#!/usr/bin/env bash
# How difficult is each sample of a BERT corpus? The map step: each worker computes its part.
#
#   DATA_PATH=tokens/my_text_sentence SEQ_LENGTH=512 SAVE=difficulty bash ds_analyze_bert_data_map.sh
#   ... then ds_analyze_bert_data_reduce.sh with the same settings
#
#   LAUNCHER=slurm NUM_WORKERS=16 DATA_PATH=... SEQ_LENGTH=512 SAVE=difficulty bash ds_analyze_bert_data_map.sh
#   ... submits an array of 16 tasks and the reduce step as a job that waits for them
#
# Settings: DATA_PATH (without .bin and .idx), SEQ_LENGTH, SPLIT (969,30,1), SHORT_SEQ_PROB and
# SAMPLE_SEED (0.1 and 1234; as in training), VOCAB_FILE (BERT's vocab.txt, for a corpus whose
# .meta.json does not name the control tokens), and those at the top of ../analysis_jobs.sh. METRIC is
# seqlen, vocab_rarity, seqlen_vocab_rarity or another. Run again after a failure, it computes only what
# is missing. Rarity needs the frequency of every token: where SAVE has no total_vocab_freq yet, that is
# counted first.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../analysis_jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../analysis_jobs.sh"
set_dataset bert
map_all
