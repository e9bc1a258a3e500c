"""Generative adversarial systems (survey Section V-D)."""
