"""Frames with sound: clips as tensors (``clips``), out of files (``reading``) and into them
(``writing``).

Nothing here knows what a recording shows; PyAV does the decoding and encoding.
"""
