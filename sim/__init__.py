"""Where a Flower app runs without a network of devices: in one process, or on Ray; and how long
that takes.

Nothing here knows what the app computes: ServerApp and ClientApp are handed in, or named by their
references.
"""
