"""Comparing methods and settings: sweeps over real test sets, trials on simulated defects, the choice for a part."""
