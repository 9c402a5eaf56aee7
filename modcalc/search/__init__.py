"""Shapes from a compute budget, or from another model's cost. The only package that imports numpy.

Family(spec)                 the shapes of a spec: how heads and widths follow from depth and width
parse_free(text, family, …)  "n_layers=4:40:2,d_model" -> a list of values for each free knob
Lattice(family, axes, …)     every combination, billed by the ledger over arrays, a chunk at a time
match(…), plan(…)            the best of a lattice, each result recomputed by exact integers
constant(…)                  families at constant parameters (or FLOPs)
"""
