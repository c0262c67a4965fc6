"""What computes scores and maps, and how a model file becomes an inspector again."""
