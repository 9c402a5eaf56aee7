#!/usr/bin/env bash
# What a CPU makes of saved FLOPs: realised saving at two sizes, our dense model against the transformers library's Llama,
# repeatability, a model against itself, where the time goes, decode against context, and how fast modcalc itself counts,
# searches and checks.
#
#   benchmarks/cpu.sh [--quick] [STAGE ...]
#   stages: saving rows llama repeat self where decode speed; default: all
#
# Needs a machine that does nothing else, for about three quarters of an hour on two cores; --quick takes two samples of everything, to see that
# it runs. Results go to benchmarks/results/<processor>-<date>/ (or to $RESULTS), and what is there already is not measured again.
# PYTHON: the interpreter; default: python3 if it has all that is needed, else a virtual environment that is made here.
set -euo pipefail
cd "$(dirname "$0")/.."
. benchmarks/lib.sh
begin cpu fp32 45 8 "$@"
shapes=benchmarks/shapes

stage_saving() {
    # 128 rows of a sequence pass a routed block: a batch whose products have about a thousand or half as many. A pair of train steps takes 9 s.
    whole=(--seconds 120)
    [ -z "$quick" ] || whole=("${long[@]}")
    for size in 512:8 768:4; do
        for mode in forward train; do
            point "saving-${size%%:*}-$mode" $shapes/cpu-${size%%:*}.yaml --baseline dense --mode $mode --batch "${size##*:}" "${whole[@]}"
        done
    done
}
stage_rows() {
    # What fewer rows lose.
    for mode in forward train; do
        point "rows-$mode" $shapes/cpu-512.yaml --baseline dense --mode $mode --sweep batch=1,2,4 "${short[@]}"
    done
}
stage_llama() {
    once "$results/llama.json" llama "$python" -m benchmarks.against_llama --device cpu --batch 2 "${llama[@]}"
}
stage_repeat() {
    for run in 1 2 3; do
        point "repeat-$run" $shapes/cpu-512.yaml --mode forward --batch 4 "${long[@]}"
    done
}
stage_self() {
    point self $shapes/cpu-512.yaml --baseline $shapes/cpu-512.yaml --mode forward --batch 1 "${long[@]}"
    # Steps so short that many samples would make an interval narrow enough to miss 1, if it were not the right one.
    itself=(mod-small --baseline mod-small --mode forward "${short[@]}")
    for run in 01 02 03 04 05 06 07 08 09 10; do
        attempt "self-$run" records "self-$run" "${itself[@]}" >/dev/null
        attempt "self-once-$run" records "self-once-$run" "${itself[@]}" --builds 1 >/dev/null
    done
}
stage_where() {
    point where $shapes/cpu-512.yaml --baseline dense --mode train --batch 1 --by component "${short[@]}"
    # Whether that is so: clocks around the modules, without a profiler.
    rounds=8
    [ -z "$quick" ] || rounds=1
    for spec in mod-small $shapes/cpu-512.yaml; do
        name=clocks-$(basename "$spec" .yaml)
        once "$results/$name.md" "$name" "$python" -m benchmarks.attribution_clocks "$spec" --rounds "$rounds"
    done
}
stage_decode() {
    point decode $shapes/cpu-512.yaml --baseline dense --mode decode --sweep batch=1,8 --sweep context=128,1024,4096,8192 "${short[@]}"
}
stage_speed() {
    # Each writes its samples and fails where its limit is missed.
    repeats=10
    [ -z "$quick" ] || repeats=2
    for one in startup check_many search_speed; do
        [ -s "$results/$one.json" ] || attempt $one "$python" -m benchmarks.$one --repeat "$repeats" --out "$results/$one.json"
    done
}
run_stages
