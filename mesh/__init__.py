"""Conduit: a service mesh in Python on Trio."""
