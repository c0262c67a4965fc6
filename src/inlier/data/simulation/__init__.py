"""Simulated defects: foreign texture, or altered pieces of the part itself, blended into a good picture."""
