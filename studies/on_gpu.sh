#!/usr/bin/env bash
# Studies on one GPU, several runs at once, until the time is up; what has finished is kept, and the next start goes on.
#
#     bash studies/on_gpu.sh FOLDER studies/held_rate/pilot.toml studies/held_rate/study.toml ...
#
# They run in this order; FOLDER gets a log of each and results.tar.gz, the folders that keep their results. Unpacked at the root of a
# clone elsewhere, and committed, these runs are not run again. On a machine without a network the corpus has to be there
# (`tools/study.py prepare STUDY.toml`, and carry the study's output). Environment:
#   SECONDS_IN_ALL  after which runs are told to save and stop (1500)
#   PARALLEL        runs at once (8: small models leave most of a GPU idle)
#   PYTHON          the interpreter (python3)
set -euo pipefail

folder=${1:?names no folder for the logs and results}
shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}
end=$((SECONDS + ${SECONDS_IN_ALL:-1500}))
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Processes that share a GPU take turns; through NVIDIA's service their kernels run side by side.
if command -v nvidia-cuda-mps-control >/dev/null; then
    CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d)
    export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
    if nvidia-cuda-mps-control -d; then trap 'echo quit | nvidia-cuda-mps-control' EXIT; fi
fi

code=0
for study in "$@"; do
    left=$((end - SECONDS))
    if [ "$left" -le 0 ]; then break; fi
    log="$folder/$(basename "$(dirname "$study")")_$(basename "$study" .toml).log"
    echo "== $study, $left s left"
    code=0
    timeout --signal=TERM "$left" "$python" "$root/tools/study.py" run "$study" --parallel "${PARALLEL:-8}" \
        >>"$log" 2>&1 || code=$?
    tail -n 3 "$log"
    "$python" "$root/tools/study.py" report "$study" >>"$log" 2>&1 || true
    # 75: stopped, to go on later; another failure need not be the next study's.
    if [ "$code" = 75 ] || [ "$code" = 124 ]; then break; fi
done

kept=()
for study in "$@"; do
    while read -r name; do
        kept+=("$(dirname "$study")/$name")
    done < <(sed -n 's/^results *= *"\(.*\)"/\1/p' "$study")
done
existing=()
for one in "${kept[@]}"; do if [ -d "$one" ]; then existing+=("$one"); fi; done
if [ ${#existing[@]} -gt 0 ]; then tar -czf "$folder/results.tar.gz" "${existing[@]}"; fi
exit "$code"
