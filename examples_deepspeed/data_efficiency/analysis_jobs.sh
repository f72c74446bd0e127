#!/usr/bin/env bash
# The steps of a difficulty analysis, for the scripts ds_analyze_*.sh, which source this file. A step
# is a command on this machine, or a SLURM job.
#
#   SAVE=difficulty        folder of the results; all workers see it
#   METRIC=vocab_rarity
#   NUM_PROCESSES=1        of each worker
#   NUM_WORKERS=1          SLURM: tasks of the array
#   WORKER_ID=0            which worker this is, where you start the workers yourself
#   VOCAB_SIZE=            entries of the vocabulary; what the corpus says, where it does
#   LAUNCHER= SBATCH_FLAGS= AFTER= PYTHON= DRY_RUN=   see ../slurm/jobs.sh

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
METRIC="${METRIC:-vocab_rarity}"
NUM_PROCESSES="${NUM_PROCESSES:-1}"
NUM_WORKERS="${NUM_WORKERS:-1}"
WORKER_ID="${WORKER_ID:-0}"
# shellcheck source-path=SCRIPTDIR source=../slurm/jobs.sh
source "$REPOSITORY/examples_deepspeed/slurm/jobs.sh"

# set_dataset TYPE: DATASET becomes the flags that name the samples
set_dataset() {
    require DATA_PATH SEQ_LENGTH
    DATASET=(--data-path "$DATA_PATH" --split "${SPLIT:-969,30,1}" --seq-length "$SEQ_LENGTH")
    if [[ "$1" == bert ]]; then
        DATASET+=(--data-type bert ${SHORT_SEQ_PROB:+--short-seq-prob "$SHORT_SEQ_PROB"}
            ${SAMPLE_SEED:+--sample-seed "$SAMPLE_SEED"} ${VOCAB_FILE:+--vocab-file "$VOCAB_FILE"})
    fi
}

# map_all: maps METRIC, before it the token frequencies that rarity needs; on SLURM the reduce step follows
map_all() {
    if [[ "$METRIC" == *vocab_rarity && ! -e "$SAVE/total_vocab_freq" ]]; then
        if [[ "$LAUNCHER" == local && "$NUM_WORKERS" != 1 ]]; then
            fail "METRIC=$METRIC needs $SAVE/total_vocab_freq: map and reduce METRIC=total_vocab_freq first"
        fi
        map_step total_vocab_freq "${DATASET[@]}"
        reduce_step total_vocab_freq "${DATASET[@]}"
    fi
    map_step "$METRIC" "${DATASET[@]}"
    if [[ "$LAUNCHER" == slurm ]]; then reduce_step "$METRIC" "${DATASET[@]}"; fi
}

# map_step METRIC DATASET_FLAG...: the parts of all workers, or of this one
map_step() {
    local metric="$1" worker=()
    shift
    # A task of an array learns from SLURM which worker it is.
    if [[ "$LAUNCHER" == local ]]; then
        worker=(--num-workers "$NUM_WORKERS" --worker-id "$WORKER_ID")
    fi
    step "map-$metric" "$NUM_PROCESSES" "--array=0-$((NUM_WORKERS - 1))" \
        map "$@" --metric "$metric" --save "$SAVE" ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"} \
        --num-processes "$NUM_PROCESSES" ${worker[@]+"${worker[@]}"}
}

# reduce_step METRIC DATASET_FLAG...: the parts become one index; one process is enough
reduce_step() {
    local metric="$1"
    shift
    step "reduce-$metric" 1 "" \
        reduce "$@" --metric "$metric" --save "$SAVE" ${VOCAB_SIZE:+--vocab-size "$VOCAB_SIZE"}
}

# step NAME CPUS SBATCH_FLAG ARGUMENT...: runs tools/analyze_data.py, or makes that a job after AFTER
step() {
    local name="$1" cpus="$2" array="$3"
    shift 3
    set -- env "PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}" \
        "$PYTHON" "$REPOSITORY/tools/analyze_data.py" "$@"
    if [[ "$LAUNCHER" == slurm ]]; then
        submit "$name" "exec $(printf '%q ' "$@")" ${array:+"$array"} "--cpus-per-task=$cpus"
    elif [[ -n "$DRY_RUN" ]]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}
