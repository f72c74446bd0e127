#!/usr/bin/env bash
# The whole idea for BERT on one CPU: text -> sentences of tokens -> difficulty index -> a small BERT
# pretrained four ways on the same budget of effective tokens -> one table and one picture.
#
#   make demo-bert                                   sets everything up, then runs this script
#   DRY_RUN=1 bash quickstart.sh                     writes the four configurations, prints the commands
#   CORPUS=my.jsonl RUN_DIR=runs/mine bash quickstart.sh
#
# Started again, it goes on where it stopped: a finished stage is skipped as long as its command and
# what it reads are unchanged; an interrupted training continues from its last checkpoint.
# CORPUS is your own text instead of Wikipedia: a folder or a file that ends in .jsonl, .txt, .gz or .zst.
# VARIANTS="baseline curriculum" trains these two alone.
# shellcheck disable=SC2034  # most of it is read by quickstart_stages.sh
set -euo pipefail

RUN_DIR="${RUN_DIR:-runs/quickstart_bert}"
SEED="${SEED:-1234}"

# The size: below 10 minutes on two cores. Larger values here are the first thing to try next.
VOCAB_SIZE="${VOCAB_SIZE:-4096}"
NUM_LAYERS="${NUM_LAYERS:-4}"             # random-LTD leaves the first and the last layer alone
HIDDEN_SIZE="${HIDDEN_SIZE:-128}"
NUM_HEADS="${NUM_HEADS:-4}"
SEQ_LENGTH="${SEQ_LENGTH:-128}"
MICRO_BATCH="${MICRO_BATCH:-8}"
GLOBAL_BATCH="${GLOBAL_BATCH:-8}"
TRAIN_TOKENS="${TRAIN_TOKENS:-1000000}"   # effective tokens of each variant, padding among them
LEARNING_RATE="${LEARNING_RATE:-1e-3}"
WARMUP_PERCENT="${WARMUP_PERCENT:-5}"
SPLIT="${SPLIT:-949,50,1}"

# The published recipe for a BERT of 336M parameters, scaled down with the length of the training: the
# curriculum ends after 48% of the baseline's steps (960k of 2M), token dropping with the training.
# Lengths start at a quarter of the sequence (128 of 512).
BASELINE_STEPS=$((TRAIN_TOKENS / (GLOBAL_BATCH * SEQ_LENGTH)))
CURRICULUM_STEPS="${CURRICULUM_STEPS:-$((BASELINE_STEPS * 48 / 100))}"
CURRICULUM_START_PERCENT="${CURRICULUM_START_PERCENT:-5}"
CURRICULUM_START_LENGTH="${CURRICULUM_START_LENGTH:-$((SEQ_LENGTH / 4))}"
RANDOM_LTD_STEPS="${RANDOM_LTD_STEPS:-$BASELINE_STEPS}"
RANDOM_LTD_START_LENGTH="${RANDOM_LTD_START_LENGTH:-$((SEQ_LENGTH / 4))}"
EVAL_INTERVAL="${EVAL_INTERVAL:-$((BASELINE_STEPS / 12 + 1))}"
EVAL_ITERS="${EVAL_ITERS:-48}"            # one token in seven is in the loss: it takes more samples

ENTRY_SCRIPT=pretrain_bert.py
MODEL_TYPE=encoder
TOKENS_NAME=text_sentence
tokenizer_flags=(--type wordpiece)
tokens_flags=(--split-sentences)
analysis_flags=(--data-type bert)
# The original BERT: it converts to Hugging Face's class of that name.
training_flags=(--normalization-position after --gelu exact --weight-decay 0.01)
MAKE_DEMO="make demo-bert"
RUN_DIR_NAME=DEMO_BERT_DIR
LARGER="NUM_LAYERS=12 HIDDEN_SIZE=512 NUM_HEADS=8 TRAIN_TOKENS=20000000"
MORE_ADVICE="  What is it good for?  python tools/convert_checkpoint.py and tools/finetune_bert.py, with $RUN_DIR/baseline"

# shellcheck source=examples_deepspeed/data_efficiency/quickstart_stages.sh
source "$(dirname "${BASH_SOURCE[0]}")/../quickstart_stages.sh"
