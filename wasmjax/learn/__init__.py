"""Learnability: what of the constructed machine gradient descent can find, or keep.

Needs the extra `train`. Nothing in the package imports it; `docs/learnability.md` has the method.
"""
