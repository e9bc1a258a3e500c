"""Siamese systems (survey Section V-C.1)."""
