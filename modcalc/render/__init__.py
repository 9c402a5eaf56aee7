"""What commands print. A command makes `Table`s of raw values and one JSON document; this package does the looks.

    from modcalc.render.output import emit
    from modcalc.render.table import Column, Table

    table = Table(
        title="mod-220m",
        headline=("forward, 1 sequence of 2,048 tokens", "convention matmul: 2 FLOPs per multiply-add, causal full"),
        columns=(Column("component"), Column("parameters", "count"), Column("FLOPs", "count", key="forward_flops"), Column("share", "share")),
        rows=[("mlp", 56_623_104, 231_928_233_984, Fraction(2, 3)), ...],
        total=("total", 1, 2, 1),
        notes=("free by convention: norms",),
    )
    emit({"spec": "mod-220m", ...}, [table], format)

`format` is what `--format` gave (`modcalc.cli.options.Format`): None chooses `table` (rich) on a terminal, else `plain`;
`markdown` and `latex` are for papers, `csv` holds raw values under `Column.key`, `json` prints the document alone.
In csv, title, headline and notes go to stderr, so that stdout is data. To print in steps: `show(tables, format)` and
`say(lines, format)` or `facts([(label, line), ...], format)` for text formats, `emit(document, [], "json")` at the end.

Cells are raw: ints and Fractions stay exact, None is unknown; `good("OK")`, `bad("DROP")` and `dim("-")` colour a cell's text.
`Column.drop` > 0 names columns that may go where a terminal is too narrow, highest first. Progress: `modcalc.render.progress`.
Plots: one file per kind, on the helpers of `modcalc.render.plot`.
"""
