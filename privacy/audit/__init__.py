"""Empirical audit of the noise: canary clients through the real release, read in three ways.

canary      clients whose contribution is as large as the clip allows, in directions of their own
estimators  one estimate of epsilon, and two lower bounds that hold with 95 % confidence
"""
