"""Checkpoints of Ultralytics (YOLO): a pickled module in a dictionary, and a YAML that builds it anew for training.

look.py     is a file such a checkpoint? Told without opening it
library.py  the library: offline, silent
file.py     read one, write one that Ultralytics takes unchanged
config.py   the widths in a YAML, and the shapes that they make
outputs.py  what its layers give
widths.py   which channel groups a YAML has a number for, and the YAML of a shrunk model

Nothing is fetched, and nothing is unpickled that is not trusted. Chooses no channels, trains nothing.
"""
