"""The inspection station: models that judge for a line, keep records and tell others."""
