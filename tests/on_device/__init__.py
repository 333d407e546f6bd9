"""Tests of what runs on a device, as bodies: `tests/device` runs them on the stand-in, `tests/gpu` on a GPU.

Each asks for the fixture `cupy`, and knows nothing else of where it is.
"""
