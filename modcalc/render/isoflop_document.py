"""The answers of `modcalc isoflop` as a JSON document."""

from collections.abc import Mapping
from typing import Any

from modcalc.render.conventions import convention_document
from modcalc.render.isoflop import shape
from modcalc.search.answers import Answer
from modcalc.search.isoflop import tokens_per_param
from modcalc.search.results import Candidate


def document(answer: Answer, files: Mapping[int, str]) -> dict[str, Any]:
    """FLOPs, parameters, tokens and bytes in base units. files: id() of a candidate -> where it was written.

    forward_flops: one sequence; train_step_flops: one step of `batch` sequences; train_flops: the whole schedule.
    """
    asked, target, basis = answer.asked, answer.target, answer.asked.basis
    budgets = [budget for budget, _ in answer.founds if budget]
    return {
        "spec": asked.terms.family.spec.name,
        "budget": budgets[0] if len(budgets) == 1 else None,
        "budgets": budgets,
        "match": target
        and {
            "spec": target.spec.name,
            "by": target.by,
            "target": target.cost,
            "params": target.params,
            "forward_flops": target.forward,
            "train_flops_per_sequence": target.train,
            "tokens": target.schedule and target.schedule.tokens,
            "steps": target.schedule and target.schedule.steps,
        },
        "workload": {
            "batch": basis.batch if budgets else None,
            "seq_len": basis.seq_len,
            "context": basis.context if target and target.by == "decode" else None,
        },
        "convention": convention_document(basis.convention),
        "within": asked.within,
        "rules": list(answer.rules),
        "notes": list(answer.notes),
        "searches": [
            {
                "budget": budget,
                "size": found.tally.size,
                "looked_at": found.tally.looked,
                "broken": dict(found.tally.broken),
                "excluded_most": found.to_blame,
                "interrupted": found.tally.interrupted,
            }
            for budget, found in answer.founds
        ],
        "interrupted": answer.interrupted,
        "candidates": [_candidate(c, answer.count, files) for _, found in answer.founds for c in found.candidates],
    }


def _candidate(c: Candidate, count: str, files: Mapping[int, str]) -> dict[str, Any]:
    s = c.schedule
    return candidate_document(
        c,
        files,
        train_step_flops=s and s.step_flops,
        train_flops=s and s.spent,
        budget=s and s.budget,
        tokens=s and s.tokens,
        steps=s and s.steps,
        tokens_per_param=s and tokens_per_param(c, count),
        marks=c.marks,
        matched=c.matched and _candidate(c.matched, count, files),
    )


def candidate_document(c: Candidate, files: Mapping[int, str], **own: Any) -> dict[str, Any]:
    """What every search says of a shape. own: what one alone says."""
    return {
        "spec": c.spec.name,
        "shape": shape(c),
        "params": c.params.total,
        "params_active": c.params.active,
        "params_non_embedding": c.params.non_embedding,
        "forward_flops": c.forward,
        "train_flops_per_token": c.train_per_token,
        **own,
        "cost": c.cost,
        "relative_error": c.error,
        "status": c.status,
        "reason": c.reason or None,
        "file": files.get(id(c)),
    }
