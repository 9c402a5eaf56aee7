"""`python -m modcalc`: the command line."""

from modcalc.cli.app import main

main()
