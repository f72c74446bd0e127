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
#   LAUNCHER=local|slurm   where to run
#   SBATCH_FLAGS="..."     more flags for sbatch: account, partition, time, memory
#   AFTER=                 SLURM: the job to wait for
#   PYTHON=python          interpreter; one that every node has
#   DRY_RUN=1              print the commands, as a script that bash can run, and do nothing

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
METRIC="${METRIC:-vocab_rarity}"
NUM_PROCESSES="${NUM_PROCESSES:-1}"
NUM_WORKERS="${NUM_WORKERS:-1}"
WORKER_ID="${WORKER_ID:-0}"
LAUNCHER="${LAUNCHER:-local}"
AFTER="${AFTER:-}"
PYTHON="${PYTHON:-python}"
DRY_RUN="${DRY_RUN:-}"
read -r -a MORE_SBATCH_FLAGS <<<"${SBATCH_FLAGS:-}"
NUM_JOBS=0

fail() {
    echo "error: $*" >&2
    exit 1
}

# require NAME...: stops with one line if a setting is missing
require() {
    local name
    for name in "$@"; do
        if [[ -z "${!name:-}" ]]; then
            fail "$name is not set; it is described at the top of ${0##*/}"
        fi
    done
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
        submit "$name" "$(printf '%q ' "$@")" ${array:+"$array"} "--cpus-per-task=$cpus"
    elif [[ -n "$DRY_RUN" ]]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

# submit NAME COMMAND SBATCH_FLAG...: submits a job; AFTER becomes its number
submit() {
    local name="$1" command="$2" flags job
    shift 2
    flags=(--parsable "--job-name=$name" "--output=$SAVE/logs/%x-%A_%a.log" --ntasks=1 "$@"
        ${MORE_SBATCH_FLAGS[@]+"${MORE_SBATCH_FLAGS[@]}"} "--wrap=exec $command")
    NUM_JOBS=$((NUM_JOBS + 1))
    if [[ -n "$DRY_RUN" ]]; then
        # What is printed is a script with variables of its own.
        # shellcheck disable=SC2016
        printf 'job_%d=$(sbatch%s %s)\n' "$NUM_JOBS" \
            "${AFTER:+ --kill-on-invalid-dep=yes --dependency=afterok:$AFTER}" \
            "$(printf '%q ' "${flags[@]}")"
        AFTER="\$job_$NUM_JOBS"
        return
    fi
    if [[ -n "$AFTER" ]]; then
        flags=(--kill-on-invalid-dep=yes "--dependency=afterok:$AFTER" "${flags[@]}")
    fi
    job="$(sbatch "${flags[@]}")"
    AFTER="${job%%;*}" # the name of the cluster may follow
    echo "$name: job $AFTER"
}

if [[ "$LAUNCHER" != local && "$LAUNCHER" != slurm ]]; then
    fail "LAUNCHER is $LAUNCHER: must be local or slurm"
fi
require SAVE
if [[ "$LAUNCHER" == slurm ]]; then
    if [[ -n "$DRY_RUN" ]]; then
        printf 'mkdir -p %q\n' "$SAVE/logs"
    else
        mkdir -p "$SAVE/logs"
    fi
fi
