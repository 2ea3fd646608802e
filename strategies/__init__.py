"""Federated optimisation of a model: rules (one paper, one file), local learners, and the round
itself.

Torch and ``tasks`` only, except ``strategies/flower.py``, which is the face a Flower run sees.
"""
