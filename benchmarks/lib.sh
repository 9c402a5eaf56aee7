# What cpu.sh and gpu.sh share: options, where results go, one measured point. Sourced by them in the repository's root.

python=${PYTHON:-python3}
launcher=("$python")
long=(--seconds 60)
short=(--seconds 10)
llama_s=60

# begin DEVICE DTYPE [--quick] [STAGE ...]: read the options, find the device's name, make the folder.
begin() {
    device=$1 dtype=$2
    shift 2
    stages=()
    for word in "$@"; do
        case $word in
        --quick) long=(-n 2 --warmup 1) short=(-n 2 --warmup 1) llama_s=0 ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
        -*) echo "$0: unknown option $word; see --help" >&2; exit 2 ;;
        *) stages+=("$word") ;;
        esac
    done
    [ "$device" = cpu ] || long=("${long[@]/60/8}")
    "$python" -c 'import modcalc.models' 2>/dev/null || checkout
    local name
    name=$("$python" -c '
import sys
from modcalc.errors import ModcalcError
from modcalc.measure.hardware import describe, pick
try:
    print(describe(pick(sys.argv[1])).name)
except ModcalcError as wrong:
    sys.exit(f"error: {wrong}")' "$device")
    results=${RESULTS:-benchmarks/results/$(echo "$name" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9]\{1,\}/-/g; s/^-//; s/-$//')-$(date +%F)}
    mkdir -p "$results"
    echo "results: $results" >&2
}

# Let the interpreter find this checkout, without installing anything: models/ and specs/ are modcalc.models and modcalc.specs.
checkout() {
    local home
    home=$(mktemp -d)
    trap 'rm -rf "'"$home"'"' EXIT
    cat >"$home/sitecustomize.py" <<PY
import importlib.util
import sys

class Finder:
    """models/ and specs/ of the checkout under their names in the package."""
    HOMES = {"modcalc.models": "$PWD/models", "modcalc.specs": "$PWD/specs"}

    def find_spec(self, name, path=None, target=None):
        home = self.HOMES.get(name)
        if home:
            return importlib.util.spec_from_file_location(name, home + "/__init__.py", submodule_search_locations=[home])

sys.meta_path.insert(0, Finder())
PY
    export PYTHONPATH=$home:$PWD${PYTHONPATH:+:$PYTHONPATH}
}

# wanted STAGE: whether it was asked for, or nothing was.
wanted() {
    [ ${#stages[@]} -eq 0 ] && return 0
    for stage in "${stages[@]}"; do [ "$stage" = "$1" ] && return 0; done
    return 1
}

# point NAME WORDS...: one `modcalc profile`, its records in NAME.jsonl, its tables in NAME.md, its plot in NAME.svg.
# A failure (nothing fits, say) is told and does not end the run.
point() {
    local name=$1
    shift
    "${launcher[@]}" -m modcalc.cli.app profile "$@" --device "$device" --dtype "$dtype" \
        --out "$results/$name.jsonl" --plot "$results/$name.svg" --format markdown >"$results/$name.md" || echo "$name: exit code $?" >&2
}
