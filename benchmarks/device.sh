#!/usr/bin/env bash
# One GPU in under ten minutes, without a network: the tests that need it, training steps in each precision, and measuring of
# both heads at the paper's size in each of the ways there are, with the memory that each takes.
# Usage: benchmarks/device.sh [FOLDER]               device.json and device.md go there (without it: runs/device)
#        benchmarks/device.sh --cpu --tiny [FOLDER]  on a CPU, small: tries the script, and says nothing of a GPU
# PYTHON takes another interpreter than python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=cuda tiny=() folder=runs/device
for word in "$@"; do
  case "$word" in
    --cpu) device=cpu ;;
    --tiny) tiny=(--tiny) ;;
    -*) echo "unknown option $word: give --cpu, --tiny or a folder" >&2; exit 2 ;;
    *) folder=$word ;;
  esac
done
python=${PYTHON:-python}
mkdir -p "$folder"

# What fails is in the tables, and in the exit code at the end.
failed=0
RETHINK_HEADS_TEST_DEVICE=$device timeout 200 "$python" -m pytest -q -p no:cacheprovider \
  --junitxml "$folder/tests.xml" tests/test_cuda.py || failed=$?
timeout 390 "$python" -m benchmarks.device --device "$device" "${tiny[@]}" --tests "$folder/tests.xml" --output "$folder"
exit "$failed"
