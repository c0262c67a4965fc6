"""The command line, one command a file: parsing and printing only."""

from inlier.cli.main import main

__all__ = ["main"]
