"""Triplet systems (survey Section V-C.2)."""
