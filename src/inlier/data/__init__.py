"""From files to what methods learn from: pictures, datasets and simulated defects."""
