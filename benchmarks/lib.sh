# What cpu.sh and gpu.sh share: options, an interpreter that has all, where results go, one measured point, and a last word on
# what failed. Sourced by them in the repository's root.

failed=()
venv=.venv-benchmarks

# begin DEVICE DTYPE LONG SHORT [--quick] [STAGE ...]: read the options, find an interpreter and the device's name, make the folder.
# The script that calls it lists its stages in its head, and has a function stage_NAME for each.
# LONG, SHORT: seconds of samples for a point.
begin() {
    device=$1 dtype=$2 long=(--seconds "$3") short=(--seconds "$4") llama=(--seconds "$3") quick=
    shift 4
    stages=()
    local known word name script=benchmarks/${0##*/}  # $0 may be relative to where this was called
    known=" $(sed -n 's/^#   stages: \(.*\);.*/\1/p' "$script") "
    for word in "$@"; do
        case $word in
        --quick) quick=yes long=(-n 2 --warmup 1) short=(-n 2 --warmup 1) llama=(--seconds 0 --builds 1) ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$script"; exit 0 ;;
        -*) echo "$0: unknown option $word; see --help" >&2; exit 2 ;;
        *)
            [[ $known == *" $word "* ]] || { echo "$0: no stage is called $word; see --help" >&2; exit 2; }
            stages+=("$word")
            ;;
        esac
    done
    [ ${#stages[@]} -gt 0 ] || read -ra stages <<<"$known"
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # this checkout, whatever is installed
    interpreter
    launcher=("$python")
    name=$("$python" -c '
import sys
from modcalc.errors import ModcalcError
from modcalc.measure.hardware import describe, pick
try:
    print(describe(pick(sys.argv[1])).name)
except ModcalcError as wrong:
    print(f"error: {wrong}", file=sys.stderr)
    sys.exit(2)' "$device")
    # A quick run is kept apart, for what is there is not measured again.
    results=${RESULTS:-benchmarks/results/$(echo "$name" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9]\{1,\}/-/g; s/^-//; s/-$//')-$(date +%F)${quick:+-quick}}
    mkdir -p "$results"
    echo "results: $results (on another day RESULTS=$results goes on there)" >&2
}

# Set `python` to an interpreter that has torch and all that the stages need: $PYTHON or python3 as it is, else a virtual environment
# here that is installed once and sees what python3 has (a torch with CUDA, say); where nothing can be downloaded, python3 with what it has.
interpreter() {
    local needs="fvcore, matplotlib, transformers, pytest"
    [ "$device" = cpu ] || needs="$needs, pynvml"  # energy, clocks, and each model's time alone
    for python in $venv/bin/python "${PYTHON:-python3}"; do
        [ -n "${PYTHON:-}" ] && [ "$python" != "$PYTHON" ] && continue
        "$python" -c "import modcalc.models, $needs" 2>/dev/null && return
    done
    if [ -z "${PYTHON:-}" ]; then
        local pins=  # a torch of its own is that of the shipped results, not the newest
        [ "$device" = cpu ] && [ -n "$(lacking torch)" ] && ! $venv/bin/python -c "import torch" 2>/dev/null && pins="--constraint constraints.txt"
        echo "installing into $venv" >&2
        if { [ -x $venv/bin/python ] || { python3 -m venv --system-site-packages $venv && outer; }; } &&
            $venv/bin/python -m pip install --quiet --retries 1 --timeout 5 $pins --editable '.[test,gpu]' >&2; then
            python=$venv/bin/python
            return
        fi
        echo "could not install; going on with python3" >&2
    fi
    local lacks  # what every stage needs
    lacks=$(lacking torch msgspec numpy yaml rich tabulate typer)
    [ -z "$lacks" ] || { echo "$0: $python lacks $lacks; install that, or leave PYTHON unset to have all installed in $venv" >&2; exit 2; }
    lacks=$(lacking ${needs//,/})
    [ -z "$lacks" ] || echo "$python lacks $lacks: stages go without what it is for" >&2
}

# Names of the packages that $python does not have.
lacking() {
    "$python" -c 'import sys; from importlib.util import find_spec; print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@"
}

# Let the virtual environment see what python3 has where that is of a virtual environment itself.
outer() {
    local place='import sysconfig; print(sysconfig.get_path("purelib"))'
    python3 -c "import sys; sys.exit(sys.prefix == sys.base_prefix)" || return 0
    python3 -c "$place" >"$($venv/bin/python -c "$place")/outer.pth"
}

# run_stages: stage_NAME of all that were asked for, in that order; then write the summary, and say what failed. Exit code 1 if
# anything did.
run_stages() {
    local stage
    trap interrupted INT  # a child that dies of the signal, or tells it by a code of its own
    for stage in "${stages[@]}"; do "stage_$stage"; done
    attempt summary summarize
    if [ ${#failed[@]} -gt 0 ]; then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
}

summarize() { "$python" -m benchmarks.summary "$results"; }

interrupted() {
    trap - INT  # a second one ends this, too
    summarize >&2 || true  # stdout may be that of a stage
    exit 130
}

# attempt NAME COMMAND...: a failure is told, kept for the end, and does not end the run; an interrupt does, with a summary of what is there.
# What succeeds later under the same name, as a sweep whose first point was too large, did not fail.
attempt() {
    local name=$1 code=0 other kept=()
    shift
    echo "== $name" >&2
    "$@" || code=$?
    [ $code -ne 130 ] || interrupted
    for other in ${failed[@]+"${failed[@]}"}; do [ "$other" = "$name" ] || kept+=("$other"); done
    failed=(${kept[@]+"${kept[@]}"})
    [ $code -eq 0 ] || { echo "$name: exit code $code" >&2; failed+=("$name"); }
}

# once FILE NAME COMMAND...: as `attempt`, with stdout in FILE, or in FILE.failed; not done again if FILE is there.
once() {
    local file=$1
    shift
    [ -s "$file" ] || attempt "$1" into "$file" "${@:2}"
}

into() {
    local file=$1 code=0
    shift
    rm -f "$file.failed"
    "$@" >"$file.part" || code=$?
    if [ $code -eq 0 ]; then mv "$file.part" "$file"; else mv "$file.part" "$file.failed"; fi
    return $code
}

# point NAME WORDS...: one `modcalc profile`, its records in NAME.jsonl, its tables in NAME.md, its plot in NAME.svg.
point() {
    local name=$1 plot=()
    shift
    "$python" -c 'import matplotlib' 2>/dev/null && plot=(--plot "$results/$name.svg")
    attempt "$name" into "$results/$name.md" records "$name" "$@" "${plot[@]}" --format markdown
}

# records NAME WORDS...: one `modcalc profile`, its records in NAME.jsonl; an error with all that Python knows of it.
records() {
    local name=$1
    shift
    "${launcher[@]}" -m modcalc.cli.app --debug profile "$@" --device "$device" --dtype "$dtype" --out "$results/$name.jsonl"
}
