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
set -euo pipefail

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"

RUN_DIR="${RUN_DIR:-runs/quickstart}"
CORPUS="${CORPUS:-}"                      # your own text instead of Wikipedia: .jsonl, .txt, .gz, .zst
SEED="${SEED:-1234}"
VARIANTS="${VARIANTS:-baseline curriculum random_ltd curriculum_random_ltd}"

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
SPLIT="${SPLIT:-949,50,1}"

# The published recipe for a GPT of 1.3B parameters, scaled down with the length of the training:
# the curriculum ends after 38% of the baseline's steps (110k of 286k), token dropping after 70%
# (200k of 286k). Lengths start at a quarter of the sequence, not at 80 and 128 of 2048: so small a
# part of so short a sequence would leave no context to learn from.
BASELINE_STEPS=$((TRAIN_TOKENS / (GLOBAL_BATCH * SEQ_LENGTH)))
CURRICULUM_STEPS="${CURRICULUM_STEPS:-$((BASELINE_STEPS * 38 / 100))}"
CURRICULUM_START_LENGTH="${CURRICULUM_START_LENGTH:-$((SEQ_LENGTH / 4))}"
RANDOM_LTD_STEPS="${RANDOM_LTD_STEPS:-$((BASELINE_STEPS * 70 / 100))}"
RANDOM_LTD_START_LENGTH="${RANDOM_LTD_START_LENGTH:-$((SEQ_LENGTH / 4))}"
EVAL_INTERVAL="${EVAL_INTERVAL:-$((BASELINE_STEPS / 12 + 1))}"
DRY_RUN="${DRY_RUN:-}"

PYTHON="${PYTHON:-python}"
export PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}"
# Threads that wait for each other must not spin for long: beside one busy neighbour on two cores the
# training was 7 times slower. The first is for all OpenMP runtimes, the second for GNU's, where a short
# spin costs nothing on idle cores.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
NUM_PROCESSES="$("$PYTHON" -c 'import os; print(os.cpu_count() or 1)')"
STAGES="$RUN_DIR/stages"
CONFIGS="$RUN_DIR/configs"
mkdir -p "$STAGES" "$CONFIGS" "$RUN_DIR/corpus" "$RUN_DIR/tokens"
trap 'echo "Stopped; the same command goes on from here." >&2; exit 130' INT TERM

# key FILE...: a short text that changes with the files' contents
key() {
    cat "$@" 2>/dev/null | cksum
}

# stage NAME OUTPUT INPUTS_KEY COMMAND...: runs a command unless it has finished with these inputs.
# Output of an interrupted or outdated run is removed first, unless the command can continue it: a
# training with unchanged inputs does. stages/NAME.started and .finished hold the key of a run.
stage() {
    local name="$1" output="$2" now number started seconds
    now="$(printf '%s\n' "${@:3}" | cksum)"
    number=$((++STAGE))
    shift 3
    if [[ -n "$DRY_RUN" ]]; then
        printf '%q ' "$@"
        printf '\n'
        return
    fi
    if [[ -e "$output" && "$now" == "$(cat "$STAGES/$name.finished" 2>/dev/null)" ]]; then
        echo "[$number/$NUM_STAGES] $name: done before, in $(cat "$STAGES/$name.seconds")s"
        return
    fi
    echo "[$number/$NUM_STAGES] $name"
    rm -f "$STAGES/$name.finished"
    if [[ "$name" != train-* || "$now" != "$(cat "$STAGES/$name.started" 2>/dev/null)" ]]; then
        if [[ -e "$output" ]]; then echo "    making $output anew"; fi
        rm -rf "$output"
    fi
    echo "$now" >"$STAGES/$name.started"
    started=$(date +%s)
    # How long the corpus stage downloaded is needed again in the summary.
    if [[ "$name" == corpus ]]; then "$@" | tee "$STAGES/corpus.said"; else "$@"; fi
    # A training that was asked to stop saves and leaves without an error, but is not finished.
    if [[ "$name" == train-* ]] && tail -n 1 "$output/log.jsonl" | grep -q '"reason": "signal'; then
        echo "Stopped; the same command goes on from here." >&2
        exit 130
    fi
    seconds=$(($(date +%s) - started))
    echo "$seconds" >"$STAGES/$name.seconds"
    echo "$now" >"$STAGES/$name.finished"
    echo "[$number/$NUM_STAGES] $name: ${seconds}s"
}

# The DeepSpeed JSON file of a variant: write_config NAME; both techniques are in its name, or not.
write_config() {
    local sampling='{ "enabled": false }' routing='{ "enabled": false }'
    if [[ "$1" == *curriculum* ]]; then sampling="$(curriculum_section)"; fi
    if [[ "$1" == *random_ltd* ]]; then routing="$(random_ltd_section)"; fi
    cat >"$CONFIGS/$1.json" <<JSON
{
  "data_efficiency": {
    "data_sampling": $sampling,
    "data_routing": $routing
  }
}
JSON
}

# Samples with common words first (a growing percentile of the index), and short sequences first.
curriculum_section() {
    cat <<JSON
{
      "enabled": true,
      "curriculum_learning": {
        "enabled": true,
        "curriculum_metrics": {
          "vocab_rarity": {
            "index_path": "$RUN_DIR/difficulty/vocab_rarity",
            "difficulty_type": "percentile",
            "clustering_type": "schedule_based",
            "min_difficulty": 1,
            "max_difficulty": 100,
            "schedule_type": "fixed_root",
            "schedule_config": {
              "total_curriculum_step": $CURRICULUM_STEPS,
              "difficulty_step": 1,
              "root_degree": 2
            }
          },
          "seqlen_truncate": {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": $CURRICULUM_START_LENGTH,
            "max_difficulty": $SEQ_LENGTH,
            "schedule_type": "fixed_linear",
            "schedule_config": {
              "total_curriculum_step": $CURRICULUM_STEPS,
              "difficulty_step": 8
            }
          }
        }
      }
    }
JSON
}

# All layers but the first and the last see a random part of the tokens, which grows to all.
random_ltd_section() {
    cat <<JSON
{
      "enabled": true,
      "random_ltd": {
        "enabled": true,
        "total_layer_num": $NUM_LAYERS,
        "random_ltd_layer_num": $((NUM_LAYERS - 2)),
        "random_ltd_layer_id": [$(seq -s ', ' 1 $((NUM_LAYERS - 2)))],
        "model_mask_name": "attention_mask",
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": {
          "min_value": $RANDOM_LTD_START_LENGTH,
          "max_value": $SEQ_LENGTH,
          "schedule_type": "fixed_linear",
          "schedule_config": {
            "require_steps": $RANDOM_LTD_STEPS,
            "seq_per_step": 16
          }
        }
      }
    }
JSON
}

# train NAME: pretrains one variant; what differs between variants is its configuration alone
train() {
    local name="$1" run="$RUN_DIR/$1" flags=()
    write_config "$name"
    if [[ "$name" == *curriculum* ]]; then flags+=(--data-efficiency-curriculum-learning); fi
    if [[ "$name" == *random_ltd* ]]; then flags+=(--random-ltd); fi
    stage "train-$name" "$run" \
        "$(key "$CONFIGS/$name.json" "$STAGES/difficulty.finished")" \
        "$PYTHON" "$REPOSITORY/pretrain_gpt.py" \
        --num-layers "$NUM_LAYERS" --hidden-size "$HIDDEN_SIZE" --num-attention-heads "$NUM_HEADS" \
        --seq-length "$SEQ_LENGTH" --max-position-embeddings "$SEQ_LENGTH" \
        --vocab-size "$VOCAB_SIZE" \
        --data-path "$TOKENS" --split "$SPLIT" --tokenizer-file "$TOKENIZER" \
        --micro-batch-size "$MICRO_BATCH" --global-batch-size "$GLOBAL_BATCH" \
        --train-tokens "$TRAIN_TOKENS" --seed "$SEED" --bf16 \
        --lr "$LEARNING_RATE" --min-lr 1e-5 --lr-decay-style cosine \
        --lr-decay-tokens "$TRAIN_TOKENS" --lr-warmup-tokens $((TRAIN_TOKENS / 50)) \
        --weight-decay 0.1 --adam-beta2 0.95 --clip-grad 1.0 \
        --eval-interval "$EVAL_INTERVAL" --eval-iters 16 --log-interval 10 \
        --save "$run" --load "$run" --allow-missing-checkpoint \
        --save-interval 100 --keep-last 1 \
        --deepspeed_config "$CONFIGS/$name.json" ${flags[@]+"${flags[@]}"}
}

STAGE=0
read -r -a variants <<<"$VARIANTS"
for variant in "${variants[@]}"; do
    if [[ ! "$variant" =~ ^(baseline|curriculum|random_ltd|curriculum_random_ltd)$ ]]; then
        echo "error: VARIANTS names $variant, which is none of the four" >&2
        exit 1
    fi
done
NUM_STAGES=$((5 + ${#variants[@]}))
TEXT="$RUN_DIR/corpus/corpus.jsonl"
TOKENIZER="$RUN_DIR/tokenizer.json"
TOKENS="$RUN_DIR/tokens/demo_text_document"

own_text=()
own_text_key=""
if [[ -n "$CORPUS" ]]; then
    if [[ ! -e "$CORPUS" ]]; then
        echo "error: CORPUS is $CORPUS: no such file or folder" >&2
        exit 1
    fi
    own_text=(--input "$CORPUS")
    own_text_key="$(ls -l "$CORPUS")" # size and date: reading all of a large corpus takes long
fi
stage corpus "$TEXT" "$own_text_key" \
    "$PYTHON" "$REPOSITORY/tools/prepare_demo_corpus.py" ${own_text[@]+"${own_text[@]}"} \
    --output "$TEXT"
stage tokenizer "$TOKENIZER" "$(key "$STAGES/corpus.finished")" \
    "$PYTHON" "$REPOSITORY/tools/train_tokenizer.py" \
    --input "$TEXT" --vocab-size "$VOCAB_SIZE" --output "$TOKENIZER"
stage tokens "$TOKENS.idx" "$(key "$STAGES/tokenizer.finished")" \
    "$PYTHON" "$REPOSITORY/tools/preprocess_data.py" \
    --input "$TEXT" --tokenizer-file "$TOKENIZER" --append-eod --output-prefix "$RUN_DIR/tokens/demo"
stage difficulty "$RUN_DIR/difficulty" "$(key "$STAGES/tokens.finished")" \
    "$PYTHON" "$REPOSITORY/tools/analyze_data.py" run \
    --data-path "$TOKENS" --split "$SPLIT" --seq-length "$SEQ_LENGTH" \
    --metric vocab_rarity --save "$RUN_DIR/difficulty" --num-processes "$NUM_PROCESSES"

runs=()
for variant in "${variants[@]}"; do
    train "$variant"
    runs+=(--run "$variant=$RUN_DIR/$variant")
done
rm -f "$STAGES/report.finished" # seconds of work, and the table is what one came for
stage report "$RUN_DIR/report" "" \
    "$PYTHON" "$REPOSITORY/tools/report.py" "${runs[@]}" \
    --baseline "${variants[0]}" --output "$RUN_DIR/report"
if [[ -n "$DRY_RUN" ]]; then exit; fi

total=0
for file in "$STAGES"/*.seconds; do total=$((total + $(cat "$file"))); done
downloads="$(sed -n 's/^download \([0-9]*\).*/\1/p' "$STAGES/corpus.said")"
downloads="${downloads:-0}"
cat <<END

Time: $((total - downloads))s of work and ${downloads}s of downloads (those of the set-up not counted).

What to try next
  Is it luck?           SEED=1 DEMO_DIR=runs/seed1 make demo, and four more seeds
  Your own text:        CORPUS=my.jsonl DEMO_DIR=runs/mine make demo
  A larger model:       NUM_LAYERS=12 HIDDEN_SIZE=512 NUM_HEADS=8 TRAIN_TOKENS=20000000 DEMO_DIR=runs/larger make demo
  What is difficult?    python tools/analyze_data.py show $RUN_DIR/difficulty/vocab_rarity --histogram $RUN_DIR/difficulty.png \\
                          --tokenizer-file $TOKENIZER --data-path $TOKENS --split $SPLIT --seq-length $SEQ_LENGTH
  Zero- and few-shot:   EVAL_DATA=eval DEMO_DIR=$RUN_DIR make demo-eval (docs/evaluation.md says what belongs into eval)
  Other pacing:         edit the numbers in $CONFIGS/curriculum.json and give it to pretrain_gpt.py
END
