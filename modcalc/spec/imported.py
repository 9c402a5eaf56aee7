"""What a spec says about the config.json that it was imported from."""

from modcalc.spec.schema import Spec

NOT_CARRIED = "Not carried: "  # in its description


def left_out(spec: Spec) -> str:
    """What the config says and the spec does not, so that it is in no bill; empty: nothing."""
    return (spec.description or "").partition(NOT_CARRIED)[2].rstrip(".")
