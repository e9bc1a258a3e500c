"""Baselines and shallow systems on fixed features."""
