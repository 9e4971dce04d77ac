"""How long a forward pass takes in the runtime that the user deploys on, and what each layer has to do with it.

clock.py     medians and spreads of calls that take turns
runtimes.py  torch, torch.compile, onnxruntime, openvino: a module as a call, all behind one protocol

Knows modules and tensors; decides nothing, writes no file that stays.
"""
