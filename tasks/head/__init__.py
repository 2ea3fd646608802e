"""Heads from pictures: a signed distance field fitted in stages, to colours where they may be seen
and to gradient magnitudes where they may not.

*Identity-Obscured Neural Radiance Fields: Privacy-Preserving 3D Facial Reconstruction*, J. Kong, X.
Song, S. Huai, B. Xu, J. Luo, Y. He, 2023, https://arxiv.org/abs/2312.04106. No program of its
authors is known to us; what the paper leaves open is decided here and said where it is.
"""
