#!/usr/bin/env bash
# Everything that needs a GPU, in one call, without network: the GPU tests, exactness in the card's own precision,
# full, LoRA and QLoRA steps of a random 7B model, all devices together, checkpoint and resume, the benchmark.
# Writes $OUT/gpu_check.json (OUT: outputs/gpu_check): each part with its status, seconds and last lines.
#
#     scripts/gpu_check.sh [PYTHON]          about 25 minutes on one H100-class card
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=${OUT:-outputs/gpu_check}
mkdir -p "$out"
rm -f "$out"/*.log "$out"/*.part
"$python" - <<'PY' || exit 2
import sys, torch
if not torch.cuda.is_available():
    sys.exit("gpu_check: no GPU here; it needs one, and 120 GB of its memory for the full 7B step (less skips that one)")
print(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, torch {torch.__version__}")
PY

part() { # NAME COMMAND...: run, keep the log, note status and seconds
    local name=$1 began=$SECONDS status
    shift
    echo "== $name: $*"
    "$@" >"$out/$name.log" 2>&1
    status=$?
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" "$*" >>"$out/parts.part"
    [ "$status" = 0 ] && echo "   ok" || { echo "   failed ($status)"; tail -n 15 "$out/$name.log"; }
}

part tests "$python" -m pytest -m "gpu and not slow"
part steps_7b "$python" -m pytest -m "gpu and slow" tests/test_gpu.py
part benchmark "$python" scripts/benchmark_training.py model=llama7b model.weights=random --rows 64 --adapters full,lora,qlora

"$python" - "$out" <<'PY'
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import torch

out = Path(sys.argv[1])
def found(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
parts = {}
for line in (out / "parts.part").read_text().splitlines():
    name, status, seconds, command = line.split("\t")
    last = (out / f"{name}.log").read_text(errors="replace").splitlines()[-12:]
    parts[name] = {"status": int(status), "seconds": int(seconds), "command": command, "last_lines": last}
names = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl")
report = {
    "device": torch.cuda.get_device_name(),
    "devices": torch.cuda.device_count(),
    "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
    "python": platform.python_version(),
    "versions": {name: found(name) for name in names},
    "parts": parts,
}
benchmark = Path("outputs/benchmark_training.json")
if parts["benchmark"]["status"] == 0 and benchmark.exists():
    report["benchmark"] = json.loads(benchmark.read_text())
(out / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n")
print(f"written: {out / 'gpu_check.json'}")
sys.exit(any(part["status"] for part in parts.values()))
PY
status=$?
rm -f "$out"/parts.part
exit $status
