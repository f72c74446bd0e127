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
