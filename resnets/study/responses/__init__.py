"""Layer responses (paper, Fig. 7)."""
