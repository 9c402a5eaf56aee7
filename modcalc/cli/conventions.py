"""`modcalc conventions SPEC`."""

from modcalc.cli.options import AsMod, Batch, Format, OneSpec, SeqLen


def conventions(spec: OneSpec, mod: AsMod = None, seq_len: SeqLen = None, batch: Batch = 1, format: Format = None) -> None:
    """One model under every published counting convention, and how far each is from the count of all matrix products."""
    from modcalc.cli.loading import load_as
    from modcalc.cost.survey import survey
    from modcalc.render.conventions import document, table
    from modcalc.render.output import emit

    report, entries = survey(load_as(spec, mod), seq_len=seq_len, batch=batch)
    emit(document(report, entries), [table(report, entries)], format)
