"""Reading, recognising and writing checkpoints. Files are hostile until proven otherwise."""
