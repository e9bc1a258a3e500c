"""Attention systems (survey Section V-E)."""
