"""Writes docs/spec.md from the schema: `python docs/generate.py`. A test holds the file to it, so edit the schema or the texts here."""

from pathlib import Path
from typing import Any

from modcalc.spec.load import json_schema
from modcalc.spec.schema import MAX_SIZE

TARGET = Path(__file__).parent / "spec.md"

INTRODUCTION = """\
# The spec: every key

<!-- Written by docs/generate.py from the schema. Do not edit: change modcalc/spec/schema.py or docs/generate.py, and run it again. -->

A spec is one YAML file that describes a decoder-only transformer. It is strict: an unknown key, a key twice, a wrong type
or a key that would have no effect is an error, with file, line and the nearest valid key. All problems of a file are
reported at once, except that rules between keys of a section are not checked while one of its values cannot be used.
`modcalc schema` prints this page as JSON Schema, which editors use for completion.

The smallest spec that is accepted:

```yaml
name: smallest
vocab_size: 32000
seq_len: 2048
d_model: 512
n_layers: 8
attention:
  n_heads: 8
mlp:
  ratio: 4
```

The same with Mixture-of-Depths, a budget and a training schedule:

```yaml
name: routed
vocab_size: 32000
seq_len: 2048
d_model: 512
n_layers: 8
attention: {n_heads: 8, n_kv_heads: 2}
mlp: {kind: gated, activation: silu, d_ff: 1408}
head: {tied: true}
mod:
  capacity: 0.125
  every: 2
  predictor_width: 128
train: {batch_size: 128, tokens: 2.5e9}
budget:
  params: 60M
  forward_flops: {max: 0.65, relative_to: dense-60m}
```

How to read the tables:

- **required** stands where a key must be given; anything else may be left out.
- Integers are written as `2048` or `2e3`, without separators or suffixes. Those without a printed upper limit go up to MAX_SIZE.
- In `mod.capacity`, a number with a point is a share of T and an integer is a count: `1.0` keeps every token, `1` keeps one.
- Bounds in `budget` take suffixes: `6e18`, `1.5B`, `300G` for counts; `80GiB` (1024) or `80GB` (1000) for bytes.
- What stands under **default** is what the key means when it is left out; `null` stands for what the last column says.

Some rules concern several keys (heads that must divide `d_model`, options that exclude each other). They are checked
when a spec is loaded, and the message says what is allowed.
"""


def main() -> None:
    TARGET.write_text(text(), encoding="utf-8")


def text() -> str:
    """docs/spec.md as it should be."""
    schema = json_schema()
    sections = schema["$defs"]
    places = found_at(sections)
    parts = [INTRODUCTION.replace("MAX_SIZE", f"{MAX_SIZE:,}")]
    parts += [section(name, sections[name], places[name]) for name in places]
    return "\n".join(parts)


def found_at(sections: dict[str, Any]) -> dict[str, list[str]]:
    """Section -> dotted keys that hold it, in the order of the file; the file itself has none."""
    places: dict[str, list[str]] = {"Spec": []}

    def walk(name: str, path: str) -> None:
        for key, kind in sections[name]["properties"].items():
            for inner in references(kind):
                where = f"{path}{key}"
                places.setdefault(inner, []).append(where)
                walk(inner, f"{where}.")

    walk("Spec", "")
    return places


def references(kind: dict[str, Any]) -> list[str]:
    """Sections that a key may hold."""
    here = [kind["$ref"].rpartition("/")[2]] if "$ref" in kind else []
    return here + [name for inner in (*kind.get("anyOf", ()), *([kind["items"]] if "items" in kind else ())) for name in references(inner)]


def section(name: str, kind: dict[str, Any], places: list[str]) -> str:
    where = "The file" if not places else f"`{common(places)}`" if len(places) > 1 else f"`{places[0]}`"
    table = [["key", "value", "default", "meaning"], ["---"] * 4]
    for key, one in kind["properties"].items():
        default = "**required**" if key in kind.get("required", ()) else written(one["default"])
        table.append([f"`{key}`", value(one), default, one["description"].replace("|", "\\|")])
    rows = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([f'<a id="{name}"></a>', "", f"## {where}", "", f"{kind['description'].rstrip('.')}.", "", *rows, ""])


def common(places: list[str]) -> str:
    """budget.params, budget.forward_flops, … -> budget.*"""
    (parent,) = {p.rpartition(".")[0] for p in places}
    return f"{parent}.*"


def value(kind: dict[str, Any]) -> str:
    """What may be written, in words."""
    if "$ref" in kind:
        return f"[section](#{kind['$ref'].rpartition('/')[2]})"
    if "anyOf" in kind:
        choices = list(dict.fromkeys(value(one) for one in kind["anyOf"]))
        # A bound may be any number, whole or not.
        return " or ".join(choice for choice in choices if choice != "integer" or "number" not in choices)
    if "enum" in kind:
        return ", ".join(f"`{choice}`" for choice in kind["enum"])
    if kind["type"] == "array":
        return f"a list of ({value(kind['items'])})"
    plain = {"integer": "integer", "number": "number", "boolean": "`true`, `false`", "string": "text", "null": "`null`"}[kind["type"]]
    return f"{plain}{limits(kind)}"


def limits(kind: dict[str, Any]) -> str:
    """from 1, above 0 to 1, …; the limit that all sizes share is said once, above."""
    low = f"from {shown(kind['minimum'])}" if "minimum" in kind else f"above {shown(kind['exclusiveMinimum'])}" if "exclusiveMinimum" in kind else ""
    high = f"to {shown(kind['maximum'])}" if kind.get("maximum", MAX_SIZE) != MAX_SIZE else ""
    high = f"below {shown(kind['exclusiveMaximum'])}" if "exclusiveMaximum" in kind else high
    said = " ".join(part for part in (low, high) if part)
    return f" {said}" if said else ""


def shown(x: float) -> str:
    return f"{x:,}" if isinstance(x, int) and x < 10**9 else f"{x:g}"


def written(default: Any) -> str:
    """A default as YAML would have it."""
    if isinstance(default, dict):
        return "all of its defaults"
    return f"`{'null' if default is None else str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    main()
