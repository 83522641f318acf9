"""What ends a run that is interrupted, diverged or hung."""
