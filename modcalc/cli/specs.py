"""`modcalc specs`."""

from modcalc.cli.options import Format


def specs(format: Format = None) -> None:
    """List the shipped specs: what each costs at its own sequence length, and where its shape is from."""
    from modcalc.cost.account import account
    from modcalc.render.output import emit
    from modcalc.render.table import Column, Table
    from modcalc.spec.load import load, shipped_specs

    rows, documents = [], []
    # By size, so that dense and MoD of one shape stand together.
    reports = sorted(((spec, account(spec)) for spec in map(load, shipped_specs().values())), key=lambda pair: pair[1].params.total)
    for spec, report in reports:
        routed = list(report.plan.routed)
        rows.append(
            (spec.name, spec.seq_len, report.params.total, report.flops.forward, f"{len(routed)} of {spec.n_layers}" if routed else None, spec.source)
        )
        documents.append(
            dict(
                name=spec.name, seq_len=spec.seq_len, params=report.params.total, forward_flops=report.flops.forward, n_layers=spec.n_layers,
                routed_blocks=routed, source=spec.source,
            )
        )  # fmt: skip
    rule = report.convention
    table = Table(
        title="shipped specs",
        headline=("forward, 1 sequence of T tokens", f"convention {rule.name}: {rule.counts}; causal {rule.causal}"),
        columns=(
            Column("name"),
            Column("T", "count", key="seq_len"),
            Column("parameters", "count", key="params"),
            Column("forward", "si", key="forward_flops", unit="FLOPs"),
            Column("routed blocks", drop=1),
            Column("source", drop=2),
        ),
        rows=rows,
    )
    emit(dict(convention=dict(name=rule.name, counts=rule.counts, causal=rule.causal), specs=documents), [table], format)
