#!/usr/bin/env bash
# Every GPU check of the project in one go, on a fresh machine with an NVIDIA GPU: tests that need one (kernels of the grouped
# experts, compiled steps and CUDA graphs against eager ones, attribution); what the GPU reaches; 220M, 1B and 3B pairs, bf16,
# compiled, forward and train at several batches; our dense model against the transformers library's Llama; decode at batch 1
# to 256 against the dense model of equal forward FLOPs, and against context; repeatability; a model against itself; where the
# time goes; experts against the dense model; what Mixture-of-Depths learns at equal training FLOPs; with several GPUs also
# DDP and FSDP2.
#
#   benchmarks/gpu.sh [--quick] [STAGE ...]
#   stages: peaks largest tests where train forward graph repeat self decode context llama experts ranks learn; default: all
#
# Planned for a GPU of 141 GB; what does not fit into a smaller one becomes a row. Stages run in the order in which they are named;
# what is there already is not measured again, and a stage that fails does not stop the others. --quick takes two samples of
# everything, to see that it runs. Results go to benchmarks/results/<device>-<date>/ (or to $RESULTS).
# PYTHON: the interpreter; default: python3 if it has all that is needed, else a virtual environment that is made here.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/lib.sh
begin cuda bf16 4 2 "$@"
shapes=benchmarks/shapes

stage_peaks() {
    once "$results/peaks.json" peaks "$python" -m modcalc.cli.app profile --peaks --device cuda --dtype bf16 --format json
}

# Sequences of 2,048 tokens. The batches that fill the GPU are what is judged, so they go before all others, should time run out.
pairs() { # MODE, batches of the 220M, 1B and 3B pair
    local against=(--baseline dense --mode "$1" "${long[@]}")
    point "$1-220m" mod-220m --sweep "batch=$2" "${against[@]}"
    point "$1-1b" mod-1b --sweep "batch=$3" "${against[@]}"
    point "$1-3b" mod-3b --sweep "batch=$4" "${against[@]}"
}
train=(64,16,4 32,16,4 12,4) forward=(64,16,4 32,16,4 16,4)
stage_largest() {
    pairs train "${train[@]%%,*}"
    pairs forward "${forward[@]%%,*}"
}
stage_train() { pairs train "${train[@]}"; }
stage_forward() { pairs forward "${forward[@]}"; }
stage_graph() {
    # What is left of the small models' time once the host's launches are gone.
    point graph mod-220m --baseline dense --mode train --cuda-graph --sweep batch=4,16 "${long[@]}"
}
stage_repeat() {
    for run in 1 2; do
        point "repeat-$run" dense-220m --mode forward --batch 16 "${long[@]}"
    done
}
stage_self() {
    local itself=(mod-220m --baseline mod-220m --mode forward --batch 16) run
    point self "${itself[@]}" "${long[@]}"
    for run in 1 2; do  # what shifts a whole run shows only between runs
        attempt "self-$run" records "self-$run" "${itself[@]}" "${short[@]}" >/dev/null
    done
}
stage_decode() {
    # As many layers: where the host's launches bound a step, they are its time.
    local matched=$results/matched
    once "$results/matched.txt" matched "$python" -m modcalc.cli.app isoflop dense-220m --match mod-220m --by forward \
        --free d_model,d_ff --per none --limit 1 --force --out "$matched"
    for other in "$matched"/*.yaml; do
        [ -e "$other" ] || { echo "decode: no shape of equal FLOPs; see $results/matched.txt" >&2; failed+=(matched); continue; }
        point decode mod-220m --baseline "$other" --mode decode --context 2048 --sweep batch=1,4,16,64,256 "${short[@]}"
    done
}
stage_context() {
    point context mod-220m --baseline dense --mode decode --sweep batch=1,8 --sweep context=512,2048,8192,16384 "${short[@]}"
}
stage_llama() {
    # So large that the GPU, not the host, sets the pace.
    once "$results/llama.json" llama "$python" -m benchmarks.against_llama --device cuda --dtype bf16 --batch 64 "${llama[@]}"
}
stage_where() {
    point where mod-1b --baseline dense --mode train --batch 16 --no-compile --by component "${short[@]}"
}
stage_experts() {
    for mode in forward train; do
        point "experts-$mode" $shapes/moe-small.yaml --baseline $shapes/moe-small-dense.yaml --mode $mode --batch 8 --by component "${short[@]}"
    done
}
stage_tests() {
    once "$results/tests.txt" tests "$python" -m pytest tests/test_gpu.py tests/test_train_mod.py -v -rs -p no:cacheprovider
}
stage_ranks() {
    local gpus
    gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    if [ "$gpus" -le 1 ]; then
        echo "ranks: one GPU, nothing to compare" >&2
        return
    fi
    launcher=("$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus")
    for parallel in ddp fsdp; do
        point "ranks-$parallel" mod-220m --baseline dense-220m --mode train --batch 8 --parallel $parallel "${long[@]}"
    done
    launcher=("$python")
}
stage_learn() {
    local preset=${quick:+smoke}
    once "$results/learn.md" learn "$python" -m benchmarks.train_mod --preset "${preset:-gpu}" --device cuda --work "$results/checkpoints" --out "$results/learn"
}
run_stages
