"""Bypassing stationary points: extend activations by D x, train, and contract to the original architecture.

It reads no data and trains nothing; pipelines/bypass.py does.
"""
