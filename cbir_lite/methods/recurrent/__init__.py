"""Recurrent systems (survey Section V-F)."""
