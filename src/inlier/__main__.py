"""`python -m inlier` is the command `inlier`."""

from inlier.cli import main

main()
