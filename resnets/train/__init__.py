"""The one training loop and what it needs: loss, optimizer, schedule, averaging, run folder."""
