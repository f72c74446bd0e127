#!/usr/bin/env bash
# What the quick starts have in common, for the scripts quickstart.sh, which source this file: stages,
# the four variants, the report. Before, a script sets what differs:
#
#   RUN_DIR= SEED=             the folder of the results, and the seed
#   VOCAB_SIZE= NUM_LAYERS= HIDDEN_SIZE= NUM_HEADS= SEQ_LENGTH= SPLIT= MICRO_BATCH= GLOBAL_BATCH=
#   TRAIN_TOKENS= LEARNING_RATE= WARMUP_PERCENT= EVAL_INTERVAL= EVAL_ITERS=              the size
#   CURRICULUM_STEPS= CURRICULUM_START_LENGTH= CURRICULUM_START_PERCENT=
#   RANDOM_LTD_STEPS= RANDOM_LTD_START_LENGTH=           the pacing
#   ENTRY_SCRIPT=pretrain_gpt.py MODEL_TYPE=decoder TOKENS_NAME=text_document
#   tokenizer_flags=() tokens_flags=() analysis_flags=() training_flags=()    more flags of the stages
#   MAKE_DEMO="make demo" RUN_DIR_NAME=DEMO_DIR          how it was started, for the advice at the end
#   LARGER="NUM_LAYERS=12"                               settings of a larger model, for the same
#   MORE_ADVICE=                                         one more line of it

declare -a tokenizer_flags tokens_flags analysis_flags training_flags # empty where not set
CORPUS="${CORPUS:-}"
VARIANTS="${VARIANTS:-baseline curriculum random_ltd curriculum_random_ltd}"
DRY_RUN="${DRY_RUN:-}"
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
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
    status=0
    # How long the corpus stage downloaded is needed again in the summary.
    if [[ "$name" == corpus ]]; then "$@" | tee "$STAGES/corpus.said"; else "$@" || status=$?; fi
    # A training that was asked to stop saves, and asks to be started again.
    if [[ "$status" == 75 ]]; then
        echo "Stopped; the same command goes on from here." >&2
        exit 130
    elif [[ "$status" != 0 ]]; then
        exit "$status"
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
            "min_difficulty": $CURRICULUM_START_PERCENT,
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
        "model_type": "$MODEL_TYPE",
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
        "$PYTHON" "$REPOSITORY/$ENTRY_SCRIPT" \
        --num-layers "$NUM_LAYERS" --hidden-size "$HIDDEN_SIZE" --num-attention-heads "$NUM_HEADS" \
        --seq-length "$SEQ_LENGTH" --max-position-embeddings "$SEQ_LENGTH" \
        --vocab-size "$VOCAB_SIZE" \
        --data-path "$TOKENS" --split "$SPLIT" --tokenizer-file "$TOKENIZER" \
        --micro-batch-size "$MICRO_BATCH" --global-batch-size "$GLOBAL_BATCH" \
        --train-tokens "$TRAIN_TOKENS" --seed "$SEED" \
        --lr "$LEARNING_RATE" --min-lr 1e-5 --lr-decay-style cosine \
        --lr-decay-tokens "$TRAIN_TOKENS" --lr-warmup-tokens $((TRAIN_TOKENS * WARMUP_PERCENT / 100)) \
        --clip-grad 1.0 ${training_flags[@]+"${training_flags[@]}"} \
        --eval-interval "$EVAL_INTERVAL" --eval-iters "$EVAL_ITERS" --log-interval 10 \
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
TOKENS="$RUN_DIR/tokens/demo_$TOKENS_NAME"

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
    --input "$TEXT" --vocab-size "$VOCAB_SIZE" --output "$TOKENIZER" \
    ${tokenizer_flags[@]+"${tokenizer_flags[@]}"}
stage tokens "$TOKENS.idx" "$(key "$STAGES/tokenizer.finished")" \
    "$PYTHON" "$REPOSITORY/tools/preprocess_data.py" \
    --input "$TEXT" --tokenizer-file "$TOKENIZER" --output-prefix "$RUN_DIR/tokens/demo" \
    ${tokens_flags[@]+"${tokens_flags[@]}"}
stage difficulty "$RUN_DIR/difficulty" "$(key "$STAGES/tokens.finished")" \
    "$PYTHON" "$REPOSITORY/tools/analyze_data.py" run \
    --data-path "$TOKENS" --split "$SPLIT" --seq-length "$SEQ_LENGTH" \
    --metric vocab_rarity --save "$RUN_DIR/difficulty" --num-processes "$NUM_PROCESSES" \
    ${analysis_flags[@]+"${analysis_flags[@]}"}

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
more_advice="${MORE_ADVICE:-}"
if [[ -n "$more_advice" ]]; then more_advice+=$'\n'; fi
cat <<END

Time: $((total - downloads))s of work and ${downloads}s of downloads (those of the set-up not counted).

What to try next
  Is it luck?           SEED=1 $RUN_DIR_NAME=runs/seed1 $MAKE_DEMO, and four more seeds
  Your own text:        CORPUS=my.jsonl $RUN_DIR_NAME=runs/mine $MAKE_DEMO
  A larger model:       $LARGER $RUN_DIR_NAME=runs/larger $MAKE_DEMO
  What is difficult?    python tools/analyze_data.py show $RUN_DIR/difficulty/vocab_rarity --histogram $RUN_DIR/difficulty.png \\
                          --tokenizer-file $TOKENIZER --data-path $TOKENS --split $SPLIT --seq-length $SEQ_LENGTH ${analysis_flags[*]-}
${more_advice}  Other pacing:         edit the numbers in $CONFIGS/curriculum.json and give it to $ENTRY_SCRIPT
END
