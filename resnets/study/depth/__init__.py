"""The depth study: degradation of plain and residual networks."""
