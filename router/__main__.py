"""`python -m router` is `hybrid-router`."""

from router.cli import main

main()
