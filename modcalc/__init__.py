"""What a transformer costs: exact FLOPs, parameters, memory and step times, dense or Mixture-of-Depths.

load(path) -> Spec · account(spec, …) -> Report · build(spec, device=…) -> torch module. A Spec made or changed in Python is held to the rules of
a file by check_spec(spec).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modcalc.cost.account import account, dense_twin
    from modcalc.measure.build import build
    from modcalc.spec.load import load
    from modcalc.spec.resolve import resolve
    from modcalc.spec.validate import check_spec

_HOME = {
    "account": "modcalc.cost.account",
    "dense_twin": "modcalc.cost.account",
    "build": "modcalc.measure.build",
    "load": "modcalc.spec.load",
    "resolve": "modcalc.spec.resolve",
    "check_spec": "modcalc.spec.validate",
}
__all__ = ["account", "build", "check_spec", "dense_twin", "load", "resolve"]


# In a checkout models/ and specs/ stand beside this folder, and the checkout is what Python imports when it is started there.
if not os.path.isdir(os.path.join(__path__[0], "specs")):
    __path__.append(os.path.dirname(__path__[0]))


def __dir__() -> list[str]:
    return [*globals(), *_HOME]


def __getattr__(name: str) -> object:
    # Late, so that `import modcalc` never loads what is not used (torch above all).
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'modcalc' has no attribute {name!r}")
