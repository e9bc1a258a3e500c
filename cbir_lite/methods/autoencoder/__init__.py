"""Autoencoder systems (survey Section V-B)."""
