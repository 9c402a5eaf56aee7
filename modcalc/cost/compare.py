"""Accounts side by side: a model and its dense twin, and sampling at its expectation and its extremes."""

from modcalc.cost.account import Report, account, dense_twin
from modcalc.cost.workload import ROUTING
from modcalc.spec.plan import Dim
from modcalc.spec.schema import Spec


def under(report: Report, spec: Spec, **over: object) -> Report:
    """`spec` billed under the workload and convention of `report`, but for what `over` says."""
    work = report.work
    same = dict(seq_len=work.seq_len, batch=work.batch, phase=work.phase, context=work.context, routing=work.routing, convention=report.convention)
    return account(spec, **{**same, **over})


def twin(report: Report, spec: Spec) -> Report | None:
    """The dense twin of a Mixture-of-Depths spec under the same workload; None for a dense spec."""
    return under(report, dense_twin(spec)) if spec.mod else None


def sampling_range(report: Report, spec: Spec) -> dict[str, Report]:
    """At sampling, routing decides token by token: reports for `expected`, `all` (every token routed) and `none`, which bound all others
    where no way around costs more than it saves.

    Empty for a dense spec, and for phases whose routed blocks keep a fixed number of tokens.
    """
    if not (spec.mod and report.work.sampling):
        return {}
    return {routing: under(report, spec, routing=routing) for routing in ROUTING}


def kv_bytes(report: Report) -> Dim:
    """Bytes of the KV cache of all sequences after the tokens of a prefill or decode report."""
    from modcalc.cost.memory import kv_cache_bytes

    work = report.work
    return kv_cache_bytes(report.plan, work.context + work.seq_len, batch=work.batch, routing=work.routing)
