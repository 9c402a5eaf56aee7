#!/usr/bin/env bash
# What a CPU makes of saved FLOPs: realised saving at two sizes, our dense model against the transformers library's Llama,
# repeatability, a model against itself, where the time goes, and decode against context.
#
#   benchmarks/cpu.sh [--quick] [STAGE ...]      stages: saving llama repeat self where decode; default: all
#
# Needs modcalc with torch, matplotlib and transformers, and a machine that does nothing else. About 40 minutes on two cores;
# --quick takes two samples of everything, to see that it runs. Results go to benchmarks/results/<processor>-<date>/ (or to
# $RESULTS), and what is there already is not measured again. PYTHON: the interpreter, default python3.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/lib.sh
begin cpu fp32 "$@"
shapes=benchmarks/shapes

if wanted saving; then
    for size in 512 768; do
        for mode in forward train; do
            point "saving-$size-$mode" $shapes/cpu-$size.yaml --baseline dense --mode $mode --batch 4 "${long[@]}"
        done
    done
fi
if wanted llama; then
    [ -s "$results/llama.json" ] || "$python" -m benchmarks.against_llama --device cpu --seconds "$llama_s" --out "$results/llama.json" >/dev/null
fi
if wanted repeat; then
    for run in 1 2; do
        point "repeat-$run" $shapes/cpu-512.yaml --mode forward --batch 4 "${long[@]}"
    done
fi
if wanted self; then
    point self $shapes/cpu-512.yaml --baseline $shapes/cpu-512.yaml --mode forward --batch 1 "${long[@]}"
fi
if wanted where; then
    point where $shapes/cpu-512.yaml --baseline dense --mode train --batch 4 --by component -n 2 --warmup 1
fi
if wanted decode; then
    point decode $shapes/cpu-512.yaml --baseline dense --mode decode --batch 8 --sweep context=128,512,2048,8192 "${short[@]}"
fi
"$python" -m benchmarks.summary "$results"
