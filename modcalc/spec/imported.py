"""What a spec says in its description about the config.json that it was imported from."""

from modcalc.spec.schema import Spec
from modcalc.spec.yaml_nodes import printable

DEFAULTED = "Sizes that the file leaves to the class: "
NOT_CARRIED = "Not carried: "  # to the end


def defaulted(spec: Spec) -> str:
    """Sizes that the config does not give, with the library's own; empty: it gives them all."""
    return (spec.description or "").partition(DEFAULTED)[2].partition(".")[0]


def notes(spec: Spec) -> list[str]:
    """What a bill of the spec does not say by itself; empty for a spec that no config.json left anything out of."""
    found = []
    if sizes := defaulted(spec):
        found.append(f"{spec.name}: its config.json leaves sizes to the library's class: {printable(sizes)}")
    if missing := left_out(spec):
        found.append(f"{spec.name}: not in the bill, for a spec has no key for it: {printable(missing)} (of its config.json)")
    return found


def left_out(spec: Spec) -> str:
    """What the config says and the spec does not, so that it is in no bill; empty: nothing."""
    return (spec.description or "").partition(NOT_CARRIED)[2].rstrip(".")
