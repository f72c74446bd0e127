#!/usr/bin/env bash
# All benchmarks of a GPU in one go, in under nine minutes on a bare machine with Python, torch and numpy:
#
#     bash benchmarks/on_gpu.sh FOLDER [throughput|sizes|random_ltd|pretrain ...]
#
# FOLDER gets a file of JSON lines for each part. What did not fit into a part's share of the time stands in
# its last line, `left_out`. Without transformers its models are left out. Environment:
#   PYTHON      the interpreter (python3)
#   SECONDS_IN_ALL  what the parts share; imports come on top (480)
#   VARIANT     which of our variants stands for us where only one does (layers)
#   TRAIN_FLAGS for pretrain_gpt.py (--compile layers --compile-lengths static)
#   TINY=1      tiny shapes on the CPU, to see that everything works: the figures mean nothing
set -euo pipefail

folder=${1:?names no folder for the results}
shift
parts=("$@")
if [ ${#parts[@]} -eq 0 ]; then parts=(throughput sizes random_ltd pretrain); fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
in_all=${SECONDS_IN_ALL:-480}
variant=${VARIANT:-layers}
train_flags=${TRAIN_FLAGS---compile layers --compile-lengths static}
# Memory comes in pieces of many sizes, one contestant after the other.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

device=cuda steps=20 shape=gpt2 sizes=(gpt2-medium gpt-1.3b) lengths=1024,2048,4096,8192,512
contestants=final
if [ "${TINY:-0}" = 1 ]; then
    device=cpu steps=2 shape=tiny sizes=(tiny) lengths=32,16 contestants=eager
    variant=eager train_flags=
    export CUDA_VISIBLE_DEVICES=
fi

# Percent of the time for a part -> seconds.
share() { echo $((in_all * $1 / 100)); }

failed=0
run() {
    local part=$1
    shift
    echo "== $part: $*"
    "$python" -m "$@" --out "$folder/$part.jsonl" >"$folder/$part.log" 2>&1 || { failed=1; echo "$part failed:"; }
    tail -n 40 "$folder/$part.log"
}

for part in "${parts[@]}"; do
    case $part in
    throughput)
        run throughput benchmarks.train_throughput --device $device --shape $shape --steps $steps \
            --contestants "$contestants" --seconds "$(share 38)"
        ;;
    sizes)
        for size in "${sizes[@]}"; do
            run "$size" benchmarks.train_throughput --device $device --shape "$size" --steps $((steps / 2)) \
                --contestants "$variant" --seconds "$(share 9)"
        done
        ;;
    random_ltd)
        run random_ltd benchmarks.random_ltd --device $device --shape $shape --variant "$variant" \
            --lengths $lengths --seconds "$(share 25)"
        ;;
    pretrain)
        run pretrain benchmarks.pretrain_throughput --shape $shape --steps $((steps * 3)) \
            --flags="$train_flags" --seconds "$(share 19)"
        ;;
    *)
        echo "no part is called $part: throughput, sizes, random_ltd, pretrain" >&2
        exit 2
        ;;
    esac
done
exit $failed
