#!/usr/bin/env bash
# Every GPU check of the project in one go, on a fresh machine with an NVIDIA GPU: tests that need one (kernels of the grouped
# experts, compiled steps and CUDA graphs against eager ones, attribution); what the GPU reaches; 220M, 1B and 3B pairs, bf16,
# compiled, forward and train at several batches; our dense model against the transformers library's Llama; decode at batch 1
# to 256 against the dense model of equal forward FLOPs, and against context; repeatability; a model against itself; where the
# time goes; experts against the dense model; what Mixture-of-Depths learns at equal training FLOPs; with several GPUs also
# DDP and FSDP2.
#
#   benchmarks/gpu.sh [--quick] [STAGE ...]
#   stages: tests peaks train forward graph repeat self where decode llama context experts ranks learn; default: all
#
# Planned for a GPU of 80 GB or more. Stages may be run one by one; what is there already is not measured again, and a stage
# that fails does not stop the others. --quick takes two samples of everything, to see that it runs. Results go to
# benchmarks/results/<device>-<date>/ (or to $RESULTS).
# PYTHON: the interpreter; default: python3 if it has modcalc and all that is needed, else a virtual environment that is made here.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/lib.sh
begin cuda bf16 4 2 "$@"
shapes=benchmarks/shapes

if wanted tests; then
    once "$results/tests.txt" tests "$python" -m pytest tests/test_gpu.py tests/test_train_mod.py -v -rs -p no:cacheprovider
fi
if wanted peaks; then
    once "$results/peaks.json" peaks "$python" -m modcalc.cli.app profile --peaks --device cuda --dtype bf16 --format json
fi
for mode in train forward; do
    if wanted $mode; then
        # Sequences of 2,048 tokens; the largest batch fills the GPU. What does not fit becomes a row.
        point $mode mod-220m mod-1b mod-3b --baseline dense --mode $mode --sweep batch=4,8,16,64 "${long[@]}"
    fi
done
if wanted graph; then
    # What is left of the small models' time once the host's launches are gone.
    point graph mod-220m --baseline dense --mode train --cuda-graph --sweep batch=4,16 "${long[@]}"
fi
if wanted repeat; then
    for run in 1 2; do
        point "repeat-$run" dense-220m --mode forward --batch 16 "${long[@]}"
    done
fi
if wanted self; then
    point self mod-220m --baseline mod-220m --mode forward --batch 16 "${long[@]}"
fi
if wanted where; then
    point where mod-1b --baseline dense --mode train --batch 16 --no-compile --by component "${short[@]}"
fi
if wanted decode; then
    matched=$results/matched
    once "$results/matched.txt" matched "$python" -m modcalc.cli.app isoflop dense-220m --match mod-220m --by forward --per none --limit 1 --out "$matched"
    for other in "$matched"/*.yaml; do
        point decode mod-220m --baseline "$other" --mode decode --context 2048 --sweep batch=1,4,16,64,256 "${short[@]}"
    done
fi
if wanted llama; then
    once "$results/llama.json" llama "$python" -m benchmarks.against_llama --device cuda --dtype bf16 --batch 16 "${llama[@]}"
fi
if wanted context; then
    once "$results/context.md" context "$python" -m benchmarks.decode_context mod-220m --device cuda --dtype bf16 \
        --batch 1,8 --contexts 512,2048,8192,16384 "${short[@]}" --out "$results/context.jsonl"
fi
if wanted experts; then
    for mode in forward train; do
        point "experts-$mode" $shapes/moe-small.yaml --baseline $shapes/moe-small-dense.yaml --mode $mode --batch 8 --by component "${short[@]}"
    done
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
if wanted learn; then
    preset=${quick:+smoke}
    once "$results/learn.md" learn "$python" -m benchmarks.train_mod --preset "${preset:-gpu}" --device cuda --work "$results/checkpoints" --out "$results/learn"
fi
finish
