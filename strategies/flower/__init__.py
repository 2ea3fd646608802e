"""The face a Flower run sees: messages, legs, and a round strategy. The only part of ``strategies``
with flwr."""
