#!/usr/bin/env bash
# All that a GPU host shows, in one call.
#
#   run.sh OUT [RAY] [MINUTES]
#
# OUT      folder for gpu.json (written after every row), gpu.txt and, with RAY, digits.txt and digits.tar.gz (the run's folder).
# RAY      folder with an unpacked Ray to put on PYTHONPATH, where the host has none; "-" or nothing: no demo under Ray.
# MINUTES  that the measurements may take; default 8. The demo takes about one more.
#
# The measurements need Python 3.11 or newer, numpy, PyTorch with CUDA and transformers; torchao for FP8, and a C compiler
# for compiled steps (Triton builds its launchers with it). The demo needs Ray and its Tune, pandas, pyarrow, scipy, rich,
# packaging and scikit-learn besides. What of these is missing must be carried along as wheels and be on PYTHONPATH.
set -euo pipefail
out=${1:?usage: run.sh OUT [RAY] [MINUTES]}
ray=${2:--}
minutes=${3:-8}
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ "$ray" != - ]; then ray=$(cd "$ray" && pwd); fi
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1

# Trying the script out where there is no GPU: the same, with tiny shapes.
tiny=$(python3 -c 'import torch; print("" if torch.cuda.is_available() else "--tiny")')
failed=0
python3 -m benchmarks.gpu --json "$out/gpu.json" --minutes "$minutes" $tiny | tee "$out/gpu.txt" || failed=1

if [ "$ray" = - ]; then
  echo "no folder with Ray was given: the demo under Ray is left out" | tee "$out/digits.txt"
  exit $failed
fi
export PYTHONPATH="$ray${PYTHONPATH:+:$PYTHONPATH}"
missing=$(python3 - <<'PYTHON'
from importlib.util import find_spec
print(*(name for name in ("ray", "pandas", "pyarrow", "scipy", "rich", "packaging", "sklearn") if find_spec(name) is None))
PYTHON
)
if [ -n "$missing" ]; then
  echo "the demo under Ray is left out, for want of: $missing" | tee "$out/digits.txt"
  exit 1
fi
share=0.5
if [ -n "$tiny" ]; then share=0; fi
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
python3 -m sweeps.digits --gpus-per-trial "$share" --storage "$runs" --run-name digits 2>&1 | tee "$out/digits.txt" || failed=1
tar -C "$runs" -czf "$out/digits.tar.gz" digits || failed=1
exit $failed
