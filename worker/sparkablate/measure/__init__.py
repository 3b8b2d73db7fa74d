"""Conditions on blocks and items: the walk through the layers, likelihoods, metrics, what they cost."""
