#!/usr/bin/env bash
# The whole idea on one CPU: text -> tokens -> difficulty index -> a small GPT pretrained four ways
# on the same budget of effective tokens -> one table and one picture.
#
#   make demo                                        sets everything up, then runs this script
#   DRY_RUN=1 bash quickstart.sh                     writes the four configurations, prints the commands
#   CORPUS=my.jsonl RUN_DIR=runs/mine bash quickstart.sh
#
# Started again, it goes on where it stopped: a finished stage is skipped as long as its command and
# what it reads are unchanged; an interrupted training continues from its last checkpoint.
# CORPUS is your own text instead of Wikipedia: a folder or a file that ends in .jsonl, .txt, .gz or .zst.
# VARIANTS="baseline curriculum" trains these two alone.
# shellcheck disable=SC2034  # most of it is read by quickstart_stages.sh
set -euo pipefail

RUN_DIR="${RUN_DIR:-runs/quickstart}"
SEED="${SEED:-1234}"

# The size: about 10 minutes on two cores. Larger values here are the first thing to try next.
VOCAB_SIZE="${VOCAB_SIZE:-4096}"
NUM_LAYERS="${NUM_LAYERS:-6}"             # random-LTD leaves the first and the last layer alone
HIDDEN_SIZE="${HIDDEN_SIZE:-192}"
NUM_HEADS="${NUM_HEADS:-4}"
SEQ_LENGTH="${SEQ_LENGTH:-256}"
MICRO_BATCH="${MICRO_BATCH:-8}"
GLOBAL_BATCH="${GLOBAL_BATCH:-8}"
TRAIN_TOKENS="${TRAIN_TOKENS:-600000}"    # effective tokens of each variant
LEARNING_RATE="${LEARNING_RATE:-2e-3}"
WARMUP_PERCENT="${WARMUP_PERCENT:-2}"
SPLIT="${SPLIT:-949,50,1}"

# The published recipe for a GPT of 1.3B parameters, scaled down with the length of the training:
# the curriculum ends after 38% of the baseline's steps (110k of 286k), token dropping after 70%
# (200k of 286k). Lengths start at a quarter of the sequence, not at 80 and 128 of 2048: so small a
# part of so short a sequence would leave no context to learn from.
BASELINE_STEPS=$((TRAIN_TOKENS / (GLOBAL_BATCH * SEQ_LENGTH)))
CURRICULUM_STEPS="${CURRICULUM_STEPS:-$((BASELINE_STEPS * 38 / 100))}"
CURRICULUM_START_PERCENT="${CURRICULUM_START_PERCENT:-1}"
CURRICULUM_START_LENGTH="${CURRICULUM_START_LENGTH:-$((SEQ_LENGTH / 4))}"
RANDOM_LTD_STEPS="${RANDOM_LTD_STEPS:-$((BASELINE_STEPS * 70 / 100))}"
RANDOM_LTD_START_LENGTH="${RANDOM_LTD_START_LENGTH:-$((SEQ_LENGTH / 4))}"
EVAL_INTERVAL="${EVAL_INTERVAL:-$((BASELINE_STEPS / 12 + 1))}"
EVAL_ITERS="${EVAL_ITERS:-16}"

ENTRY_SCRIPT=pretrain_gpt.py
MODEL_TYPE=decoder
TOKENS_NAME=text_document
tokenizer_flags=()
tokens_flags=(--append-eod)
analysis_flags=()
training_flags=(--bf16 --weight-decay 0.1 --adam-beta2 0.95)
MAKE_DEMO="make demo"
RUN_DIR_NAME=DEMO_DIR
LARGER="NUM_LAYERS=12 HIDDEN_SIZE=512 NUM_HEADS=8 TRAIN_TOKENS=20000000"
MORE_ADVICE="  Zero- and few-shot:   EVAL_DATA=eval DEMO_DIR=$RUN_DIR make demo-eval (docs/evaluation.md says what belongs into eval)"

# shellcheck source=examples_deepspeed/data_efficiency/quickstart_stages.sh
source "$(dirname "${BASH_SOURCE[0]}")/../quickstart_stages.sh"
