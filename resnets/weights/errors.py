"""What goes wrong with weights."""


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit the net; the message names the tensors or file."""
