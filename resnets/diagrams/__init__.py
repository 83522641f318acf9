"""Diagrams of networks and blocks, drawn from the modules (paper, Fig. 2, 3 and 5)."""
