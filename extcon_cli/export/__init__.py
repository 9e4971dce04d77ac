"""Files that run without extcon: ONNX, pt2, TorchScript, OpenVINO, plain tensors. One small file a format.

A format's file says what it needs (`NEEDS`, `INSTALL`), how it is written (`write`) and how it is run in its own
runtime (`load`). `elsewhere.py` loads it by its path, in a process that cannot import extcon; so its top imports
nothing of extcon, and no runtime.
"""
