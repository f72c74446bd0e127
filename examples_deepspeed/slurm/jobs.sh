#!/usr/bin/env bash
# Commands on this machine or as SLURM jobs, for the scripts that source this file.
#
#   LAUNCHER=local|slurm   where to run
#   SBATCH_FLAGS="..."     more flags for sbatch: account, partition, time, memory
#   AFTER=                 SLURM: the job to wait for
#   PYTHON=python          interpreter; one that every node has
#   DRY_RUN=1              print the commands, as a script that bash can run, and do nothing

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

# submit NAME COMMAND SBATCH_FLAG...: submits a job that waits for AFTER; AFTER becomes its number
submit() {
    local name="$1" command="$2" number=%j flags job
    shift 2
    if [[ " $*" == *" --array="* ]]; then number=%A_%a; fi
    flags=(--parsable "--job-name=$name" "--output=$SAVE/logs/%x-$number.log" --ntasks=1 "$@"
        ${MORE_SBATCH_FLAGS[@]+"${MORE_SBATCH_FLAGS[@]}"} "--wrap=$command")
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
