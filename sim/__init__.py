"""Runtimes of a Flower app without a network of devices (one process, or Ray), and benchmarks.

Nothing here knows what the app computes: ServerApp and ClientApp are handed in, or named by their
references.
"""
