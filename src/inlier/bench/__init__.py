"""Comparing methods and settings: sweeps over real test sets, trials on planted defects, the choice for a part."""
