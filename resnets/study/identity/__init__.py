"""How close residual blocks are to the identity."""
