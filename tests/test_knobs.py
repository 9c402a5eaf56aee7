"""Every key of the schema is reached by the drawn specs, and every one changes the plan."""

from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from strategies import specs

from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec
from modcalc.spec.validate import find_problems


def knobs(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of the schema -> its field."""
    found: dict[str, Any] = {}
    for option in _members(kind):
        if isinstance(option, msgspec.inspect.StructType):
            for field in option.fields:
                found[prefix + field.name] = field
                found |= knobs(field.type, f"{prefix}{field.name}.")
    return found


def _members(kind: Any) -> list[Any]:
    kind = kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind
    return [m for t in kind.types for m in _members(t)] if isinstance(kind, msgspec.inspect.UnionType) else [kind]


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = getattr(value, step, None)
    return value


def _reset(value: Any, path: str) -> Any:
    """`value` with the field at `path` back to its default."""
    name, _, rest = path.partition(".")
    field = next(f for f in msgspec.structs.fields(value) if f.name == name)
    return msgspec.structs.replace(value, **{name: _reset(getattr(value, name), rest) if rest else field.default})


# Not about the model: what a plan has no place for.
NO_PLAN = ("description", "source", "train", "budget")
# Without these the spec is refused, so that there is no other plan to compare with.
NEEDED = {"mlp.d_ff", "mlp.ratio", "moe.choice", "moe.top_k"}


def test_every_knob_is_drawn_and_none_is_ignored() -> None:
    """For each key there is a drawn spec where it is not the default, and one where the default makes another plan."""
    everything = knobs(msgspec.inspect.type_info(Spec))
    # The bounds of one budget rule are those of any other.
    optional = {path for path, field in everything.items() if not field.required and not (path.startswith("budget.") and path.count(".") > 1)}
    assert optional > NEEDED
    undrawn, ignored = set(optional), {path for path in optional if path.split(".")[0] not in NO_PLAN} - NEEDED

    def all_seen(spec: Spec) -> bool:
        for path in [p for p in undrawn | ignored if _at(spec, p) not in (None, everything[p].default)]:
            undrawn.discard(path)
            if path in ignored and _plans_differ(spec, path):
                ignored.discard(path)
        return not undrawn | ignored

    draws = settings(max_examples=1500, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    with suppress(NoSuchExample):  # said below, by name
        find(specs() | specs(mod=True) | specs(moe=True), all_seen, settings=draws)
    assert undrawn == set()
    assert ignored == set()


def _plans_differ(spec: Spec, path: str) -> bool:
    """Whether the key's default is valid in its place and makes another plan."""
    other = _reset(spec, path)
    return not find_problems(other) and resolve(other) != resolve(spec)
