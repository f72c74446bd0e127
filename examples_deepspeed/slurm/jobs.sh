#!/usr/bin/env bash
# Commands on this machine or as SLURM jobs that wait for each other, for the scripts that source this file.
#
#   LAUNCHER=local|slurm   where to run
#   SBATCH_FLAGS="..."     more flags for sbatch: account, partition, time, memory, GPUs
#   LOGS=                  SLURM: folder of the jobs' output; by default logs in the folder of the results
#   AFTER=                 SLURM: the job to wait for
#   NUM_WORKERS=1          SLURM: tasks of an array
#   NUM_PROCESSES=1        of each analysis
#   EVALUATE_FLAGS="..."   SLURM: flags of sbatch for the parts of a sweep alone, such as --gpus=1
#   PYTHON=python          interpreter; one that every node has
#   DRY_RUN=1              print the commands, as a script that bash can run, and do nothing

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
LAUNCHER="${LAUNCHER:-local}" AFTER="${AFTER:-}" PYTHON="${PYTHON:-python}" DRY_RUN="${DRY_RUN:-}"
NUM_WORKERS="${NUM_WORKERS:-1}" NUM_PROCESSES="${NUM_PROCESSES:-1}"
export PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}"
read -r -a MORE_SBATCH_FLAGS <<<"${SBATCH_FLAGS:-}"
QUEUED=() LOGS_MADE=""

fail() {
    echo "error: $*" >&2
    exit 1
}

# value_of FLAG WORD...: what stands behind the flag, as a word of its own or behind an equals sign, its last time
value_of() {
    local flag="$1" previous="" found="" word
    for word in "${@:2}"; do
        if [[ "$previous" == "$flag" ]]; then found="$word"; fi
        if [[ "$word" == "$flag="* ]]; then found="${word#*=}"; fi
        previous="$word"
    done
    if [[ -z "$found" ]]; then fail "$flag is not given"; fi
    echo "$found"
}

# has_result PLACE: whether a result is in a folder, or at a URL
has_result() {
    if [[ "$1" != *://* ]]; then
        [[ -e "$1" ]]
    else
        "$PYTHON" - "$1" <<'END'
import sys
from data_efficiency.files import location
sys.exit(not (location(sys.argv[1]) / "manifest.json").exists())
END
    fi
}

# logs_in PLACE: where the jobs' output goes if nothing is said
logs_in() {
    if [[ -z "${LOGS:-}" && "$1" == *://* ]]; then fail "LOGS is not set: name a folder on a disk for the jobs' output"; fi
    LOGS="${LOGS:-$1/logs}"
}

# make_logs: the folder of the jobs' output, once
make_logs() {
    if [[ -z "$DRY_RUN" ]]; then mkdir -p "$LOGS"; elif [[ -z "$LOGS_MADE" ]]; then printf 'mkdir -p %q\n' "$LOGS"; fi
    LOGS_MADE=1
}

# submit NAME COMMAND SBATCH_FLAG...: submits a job that waits for AFTER; AFTER becomes its number. If it
# cannot be submitted, those before it do not stay.
submit() {
    local name="$1" command="$2" number=%j flags job
    shift 2
    make_logs
    if [[ " $* " == *" --array="* ]]; then number=%A_%a; fi
    flags=(--parsable "--job-name=$name" "--output=$LOGS/%x-$number.log" "$@"
        ${MORE_SBATCH_FLAGS[@]+"${MORE_SBATCH_FLAGS[@]}"} "--wrap=$command")
    if [[ -n "$DRY_RUN" ]]; then
        QUEUED+=("$name")
        # What is printed is a script with variables of its own.
        # shellcheck disable=SC2016
        printf 'job_%d=$(sbatch%s %s)\n' "${#QUEUED[@]}" \
            "${AFTER:+ --kill-on-invalid-dep=yes --dependency=afterok:$AFTER}" "$(printf '%q ' "${flags[@]}")"
        AFTER="\$job_${#QUEUED[@]}"
        return
    fi
    if [[ -n "$AFTER" ]]; then flags=(--kill-on-invalid-dep=yes "--dependency=afterok:$AFTER" "${flags[@]}"); fi
    if ! job="$(sbatch "${flags[@]}")"; then
        if ((${#QUEUED[@]})); then scancel "${QUEUED[@]}"; fi
        fail "$name cannot be submitted; of the jobs before it none stays"
    fi
    AFTER="${job%%;*}" # the name of the cluster may follow
    QUEUED+=("$AFTER")
    echo "$name: job $AFTER"
}

# analysis STEP FLAG...: tools/analyze_data.py here, or as a job: a map step is an array of NUM_WORKERS tasks
analysis() {
    local step="$1" name place flags=() command
    command=(env "PYTHONPATH=$PYTHONPATH" "$PYTHON" "$REPOSITORY/tools/analyze_data.py" "$@")
    if [[ "$step" == map ]]; then command+=(--num-processes "$NUM_PROCESSES"); fi
    name="$step-$(value_of --metric "$@")"
    if [[ "$LAUNCHER" == slurm ]]; then
        place="$(value_of --save "$@")"
        logs_in "$place"
        if [[ "$step" == map ]]; then flags=("--array=0-$((NUM_WORKERS - 1))" "--cpus-per-task=$NUM_PROCESSES"); fi
        submit "$name" "exec $(printf '%q ' "${command[@]}")" ${flags[@]+"${flags[@]}"}
    else
        run "${command[@]}"
    fi
}

# run WORD...: a command here, or its line
run() {
    if [[ -z "$DRY_RUN" ]]; then "$@"; else printf '%q ' "$@" && echo; fi
}

# sweep NAME TOOL FLAG...: a tool whose programs share its work: one here, or an array, and then its table
sweep() {
    local name="$1" place command more
    command=(env "PYTHONPATH=$PYTHONPATH" "$PYTHON" "$REPOSITORY/tools/$2" "${@:3}")
    if [[ "$LAUNCHER" != slurm ]]; then
        if [[ -z "$DRY_RUN" ]]; then exec "${command[@]}"; fi
        run "${command[@]}"
        return
    fi
    read -r -a more <<<"${EVALUATE_FLAGS:-}"
    place="$(value_of --output "$@")"
    logs_in "$place"
    submit "$name" "exec $(printf '%q ' "${command[@]}")" "--array=0-$((NUM_WORKERS - 1))" ${more[@]+"${more[@]}"}
    submit table "exec $(printf '%q ' "${command[@]}" --table)"
}

# analyze FLAG...: the map step of a metric, before it the token frequencies that rarity needs and are not there;
# as a job the reduce step too
analyze() {
    local metric save
    metric="$(value_of --metric "$@")"
    save="$(value_of --save "$@")"
    if [[ "$metric" == *vocab_rarity ]] && ! has_result "$save/total_vocab_freq"; then
        analysis map "$@" --metric total_vocab_freq
        analysis reduce "$@" --metric total_vocab_freq
    fi
    analysis map "$@"
    if [[ "$LAUNCHER" == slurm ]]; then analysis reduce "$@"; fi
}

if [[ "$LAUNCHER" != local && "$LAUNCHER" != slurm ]]; then fail "LAUNCHER is $LAUNCHER: must be local or slurm"; fi
