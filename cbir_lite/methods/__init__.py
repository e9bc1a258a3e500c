"""The systems of the survey: one system, one file, in the folder where the survey puts it.

Importing this package imports no system; :mod:`cbir_lite.methods.registry` finds them.
"""
