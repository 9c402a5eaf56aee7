"""When two points are the same: hashes over what a measurement depends on."""

import hashlib
from collections.abc import Sequence

import msgspec

from modcalc.measure.records import Settings
from modcalc.spec.convert import given
from modcalc.spec.schema import Spec

# What a spec says about itself or its budget changes no step.
IDLE = ("name", "description", "source", "budget", "train")


def content_hash(spec: Spec) -> str:
    """SHA-256 of everything in a spec that could change a step; its name, comments and the order of keys do not count.

    Nor does what has its default, so that results outlive keys that are added to the schema. A default that gets another meaning needs
    a new protocol.
    """
    fields = {name: value for name, value in given(spec).items() if name not in IDLE}
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def point_key(spec: Spec, baseline: Spec | None, settings: Settings, machine: Sequence[object]) -> str:
    """Identity of a point: both specs, all settings, and the machine with its torch."""
    parts = [content_hash(spec), baseline and content_hash(baseline), msgspec.to_builtins(settings), list(machine)]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]
