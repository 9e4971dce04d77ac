"""`python -m extcon_cli` is the same as `extcon`."""

from extcon_cli.cli.app import main

main()
