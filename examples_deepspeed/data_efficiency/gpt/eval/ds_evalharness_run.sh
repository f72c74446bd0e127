#!/usr/bin/env bash
# Evaluates all checkpoints of a folder, zero-shot and with examples: one job for each checkpoint and row of tasks,
# then one table. Started again, it does what is missing or what a newer checkpoint made outdated.
#
#   CHECKPOINTS=runs/gpt SAVE=results/gpt bash ds_evalharness_run.sh
#   CHECKPOINTS=runs/gpt SAVE=results/gpt DATA_FOLDER=eval LIMIT=200 bash ds_evalharness_run.sh
#   LAUNCHER=slurm EVALUATE_FLAGS="--gpus=1 --time=4:00:00" CHECKPOINTS=... SAVE=... bash ds_evalharness_run.sh
#   ... submits an array with a task for each job, and the table as a job that waits for it
#
#   CHECKPOINTS=           a run: each checkpoint it kept; a folder of runs: the latest of each; or one checkpoint
#   SAVE=                  gets CHECKPOINT/0shot/TASKS.json, ..., table.md and table.json
#   DATA_FOLDER=           files of the local tasks (docs/evaluation.md), which are then the tasks
#   ZERO_SHOT= FEW_SHOT=   instead of the published or the local tasks: one of their sets, or rows of tasks with
#                          spaces between the rows and commas within; "none" leaves this part out
#   NUM_FEWSHOT=10         examples before each question of FEW_SHOT
#   LIMIT=                 only the first items of each task
#   FLAGS="..."            more flags for tools/evaluate_gpt.py: --dtype bfloat16, --batch-size 32, --tokenizer-file
#   NUM_PROCESSES=1        of each job, by torchrun
#   DEVICES=               local, with spaces: one job at a time on each, such as "cuda:0 cuda:1"
#   EVALUATE_FLAGS="..."   SLURM: flags of sbatch for the evaluations alone, such as GPUs
#   LAUNCHER= SBATCH_FLAGS= AFTER= PYTHON= DRY_RUN=   see ../../../slurm/jobs.sh
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../../../slurm/jobs.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../../slurm/jobs.sh"
for name in CHECKPOINTS SAVE; do
    if [[ -z "${!name:-}" ]]; then fail "$name is not set; it is described at the top of ${0##*/}"; fi
done
LOGS="${LOGS:-$SAVE/logs}"
NUM_FEWSHOT="${NUM_FEWSHOT:-10}"
NUM_PROCESSES="${NUM_PROCESSES:-1}"
read -r -a MORE_FLAGS <<<"${FLAGS:-}"
read -r -a PLACES <<<"${DEVICES:-}"
zero_shot_set=published_zero_shot few_shot_set=published_few_shot
if [[ -n "${DATA_FOLDER:-}" ]]; then zero_shot_set="local" few_shot_set=local_few_shot; fi
with_path=(env "PYTHONPATH=$PYTHONPATH")
start=("${with_path[@]}" "$PYTHON")
if [[ "$NUM_PROCESSES" != 1 ]]; then
    start+=(-m torch.distributed.run --standalone "--nproc_per_node=$NUM_PROCESSES")
fi
COMMANDS=() # what bash can run, one entry a job
TITLES=()
RUNS=() # what the table is made of

# rows_of TASKS: a row of tasks a line
rows_of() {
    case "$1" in
    none) ;;
    published_zero_shot | published_few_shot | local | local_few_shot)
        "${with_path[@]}" "$PYTHON" "$REPOSITORY/tools/evaluate_gpt.py" --list "$1"
        ;;
    *) tr -s ' ' '\n' <<<"$1" ;;
    esac
}

# add_jobs CHECKPOINT NAME: its jobs
add_jobs() {
    local checkpoint="$1" name="$2" model="$2" row
    for row in ${zero_shot_rows[@]+"${zero_shot_rows[@]}"}; do add_job "$checkpoint" "$name" 0 "$row"; done
    for row in ${few_shot_rows[@]+"${few_shot_rows[@]}"}; do add_job "$checkpoint" "$name" "$NUM_FEWSHOT" "$row"; done
    # Runs with different seeds are trainings of one model.
    if [[ "${name##*/}" =~ ^seed_[0-9]+$ ]]; then model="$(basename "$(dirname "$checkpoint")")"; fi
    RUNS+=(--run "$model=$SAVE/$name")
}

# add_job CHECKPOINT NAME SHOTS TASKS
add_job() {
    local command
    command=("${start[@]}" "$REPOSITORY/tools/evaluate_gpt.py" --keep-finished --checkpoint "$1"
        --tasks "$4" --num-fewshot "$3" --output "$SAVE/$2/$3shot/${4//,/+}.json"
        ${DATA_FOLDER:+--data-folder "$DATA_FOLDER"} ${LIMIT:+--limit "$LIMIT"}
        ${MORE_FLAGS[@]+"${MORE_FLAGS[@]}"})
    COMMANDS+=("$(printf '%q ' "${command[@]}")")
    TITLES+=("$2, $3 examples: $4")
}

# work NUMBER COUNT [FLAG]: every COUNT-th job; one that fails does not stop the others
work() {
    local number="$1" count="$2" flag="${3:-}" failed=0 i left child=""
    trap 'kill $child 2>/dev/null; exit 130' TERM
    for ((i = number; i < ${#COMMANDS[@]}; i += count)); do
        if [[ -n "$DRY_RUN" ]]; then
            echo "${COMMANDS[i]}$flag"
            continue
        fi
        left=""
        if ((i >= count)); then left=" ($((SECONDS * (${#COMMANDS[@]} - i) / i)) s left)"; fi
        echo "[$((i + 1))/${#COMMANDS[@]}] ${TITLES[i]}$left"
        eval "${COMMANDS[i]}$flag &"
        child=$!
        if ! wait "$child"; then
            echo "failed: ${TITLES[i]}" >&2
            failed=1
        fi
    done
    return "$failed"
}

# work_everywhere: all jobs, on each of the devices one at a time
work_everywhere() {
    local i failed=0 processes=()
    if [[ ${#PLACES[@]} == 0 ]]; then PLACES=(""); fi
    for i in "${!PLACES[@]}"; do
        work "$i" "${#PLACES[@]}" "${PLACES[i]:+--device ${PLACES[i]}}" &
        processes+=($!)
        # Printed commands keep their order.
        if [[ -n "$DRY_RUN" ]]; then wait "${processes[i]}"; fi
    done
    # What runs in the background does not hear of an interrupt by itself.
    trap 'kill "${processes[@]}" 2>/dev/null; echo "Stopped; the same command goes on from here." >&2; exit 130' INT TERM
    for i in "${processes[@]}"; do
        wait "$i" || failed=1
    done
    if ((failed)); then fail "not all jobs ended well; the same command does what is missing"; fi
}

# find_checkpoints: a line for each, its path and its name with a tab between them
find_checkpoints() {
    local path
    if [[ -e "$CHECKPOINTS/manifest.json" ]]; then
        printf '%s\t%s\n' "$CHECKPOINTS" "$(basename "$CHECKPOINTS")"
    elif [[ -e "$CHECKPOINTS/latest" ]]; then
        find -L "$CHECKPOINTS" -mindepth 1 -maxdepth 1 -name 'global_step*' -printf '%p\t%f\n' | sort -V
    elif [[ -d "$CHECKPOINTS" ]]; then
        find -L "$CHECKPOINTS" -name latest -type f -printf '%P\n' | sort | while read -r path; do
            path="$(dirname "$path")"
            printf '%s\t%s\n' "${CHECKPOINTS%/}/$path" "$path"
        done
    fi
}

found="$(find_checkpoints)"
if [[ -z "$found" ]]; then fail "CHECKPOINTS is $CHECKPOINTS: no run and no checkpoint in it"; fi
zero_shot="$(rows_of "${ZERO_SHOT:-$zero_shot_set}")"
few_shot="$(rows_of "${FEW_SHOT:-$few_shot_set}")"
read -r -d '' -a zero_shot_rows <<<"$zero_shot" || true
read -r -d '' -a few_shot_rows <<<"$few_shot" || true
while IFS=$'\t' read -r checkpoint name; do
    add_jobs "$checkpoint" "$name"
done <<<"$found"
if [[ ${#COMMANDS[@]} == 0 ]]; then fail "ZERO_SHOT and FEW_SHOT are none: nothing to evaluate"; fi
gather="$(printf '%q ' "${with_path[@]}" "$PYTHON" "$REPOSITORY/tools/gather_results.py" \
    "${RUNS[@]}" --output "$SAVE/table.json")"

if [[ "$LAUNCHER" == slurm ]]; then
    # A task of the array takes its line. Another list has another name: tasks that still wait keep theirs.
    list="$SAVE/logs/jobs-$(printf '%s\n' "${COMMANDS[@]}" | cksum | cut -d ' ' -f 1)"
    if [[ -n "$DRY_RUN" ]]; then
        printf 'printf "%%s\\n" %s>%q\n' "$(printf '%q ' "${COMMANDS[@]}")" "$list"
    else
        printf '%s\n' "${COMMANDS[@]}" >"$list"
    fi
    read -r -a more <<<"${EVALUATE_FLAGS:-}"
    # shellcheck disable=SC2016
    submit evaluate "$(printf 'eval "exec $(sed -n "${SLURM_ARRAY_TASK_ID}p" %q)"' "$list")" \
        "--array=1-${#COMMANDS[@]}" "--cpus-per-task=$NUM_PROCESSES" ${more[@]+"${more[@]}"}
    submit table "$(printf '%s>%q' "$gather" "$SAVE/table.md")"
    exit
fi
work_everywhere
if [[ -n "$DRY_RUN" ]]; then
    printf '%s>%q\n' "$gather" "$SAVE/table.md"
else
    eval "$gather" | tee "$SAVE/table.md"
fi
