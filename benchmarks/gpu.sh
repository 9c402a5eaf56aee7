#!/usr/bin/env bash
# Every GPU check of the project in one go, on a fresh machine with an NVIDIA GPU and a Python that has torch with CUDA:
# what the GPU reaches; 220M, 1B and 3B pairs, bf16, compiled, forward and train at several batches; our dense model against the
# transformers library's Llama; decode at batch 1 to 256 against the dense model of equal forward FLOPs; repeatability; a model
# against itself; where the time goes; with several GPUs also DDP and FSDP2.
#
#   benchmarks/gpu.sh [--quick] [STAGE ...]
#   stages: peaks train-220m train-1b train-3b forward-220m forward-1b forward-3b llama decode repeat self where ranks; default: all
#
# About an hour on an H200, most of it compilation; stages may be run one by one, and what is there already is not measured
# again. Results go to benchmarks/results/<device>-<date>/ (or to $RESULTS). PYTHON: the interpreter, default python3; where
# it lacks modcalc, the checkout itself is used (its dependencies must be there: msgspec numpy pyyaml rich tabulate typer).
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/lib.sh
begin cuda bf16 "$@"

if wanted peaks; then
    [ -s "$results/peaks.json" ] || "$python" -m modcalc.cli.app profile --peaks --device cuda --dtype bf16 --format json >"$results/peaks.json"
fi
for mode in train forward; do
    # Batches of 2,048 tokens; the largest fills the GPU. What does not fit becomes a row.
    for size in 220m:8,32 1b:4,16 3b:2,8; do
        name=${size%%:*}
        if wanted "$mode-$name"; then
            point "$mode-$name" "mod-$name" --baseline "dense-$name" --mode $mode --sweep "batch=${size##*:}" "${long[@]}"
        fi
    done
done
if wanted llama; then
    [ -s "$results/llama.json" ] ||
        "$python" -m benchmarks.against_llama --device cuda --dtype bf16 --batch 32 --seconds "$llama_s" --out "$results/llama.json" >/dev/null
fi
if wanted decode; then
    matched=$results/matched
    [ -d "$matched" ] || "$python" -m modcalc.cli.app isoflop dense-220m --match mod-220m --by forward --per none --limit 1 --out "$matched" >/dev/null
    point decode mod-220m --baseline "$(ls "$matched"/*.yaml)" --mode decode --context 2048 --sweep batch=1,4,16,64,256 "${short[@]}"
fi
if wanted repeat; then
    for run in 1 2; do
        point "repeat-$run" dense-220m --mode forward --batch 8 "${long[@]}"
    done
fi
if wanted self; then
    point self mod-220m --baseline mod-220m --mode forward --batch 8 "${long[@]}"
fi
if wanted where; then
    point where mod-1b --baseline dense --mode train --batch 4 --no-compile --by component -n 6
fi
if wanted ranks; then
    gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    if [ "$gpus" -gt 1 ]; then
        launcher=("$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus")
        for parallel in ddp fsdp; do
            point "ranks-$parallel" mod-220m --baseline dense-220m --mode train --batch 8 --parallel $parallel "${long[@]}"
        done
        launcher=("$python")
    else
        echo "ranks: one GPU, nothing to compare" >&2
    fi
fi
"$python" -m benchmarks.summary "$results"
