"""Judging pictures, on any runtime. Nothing here needs torch."""
