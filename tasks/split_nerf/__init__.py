"""Split radiance fields: a server holds the encoder of positions, a client its pictures and the
head that turns features into density and colour.

*SplitNeRF and S2NeRF* are the names of B. Chen et al., *S2NeRF: Privacy-preserving Training
Framework
for NeRF*, ACM CCS 2024, https://arxiv.org/abs/2409.01661. What crosses between the halves are
features of sample positions and the loss's gradient with respect to them.
"""
