"""Loss landscapes around trained networks."""
