"""Folders of Hugging Face's transformers: config.json, weights, and what stands beside them.

folder.py   read one
write.py    write one of the same kind
config.py   the sizes in a configuration, and the shapes that they make
uniform.py  which channel groups a configuration has a number for, and the configuration of a shrunk model
examples.py inputs of the shapes that a configuration asks for
card.py     the model card

Nothing is fetched, and code that comes with a folder runs only if it is trusted. Chooses no channels, trains nothing.
"""
