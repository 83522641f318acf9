"""What `resnets.evaluate` and `resnets.predict` do for the models of one task."""
