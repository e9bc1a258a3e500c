"""Reinforcement learning systems (survey Section V-G)."""
