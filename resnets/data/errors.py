"""The one error of the data road."""


class DataError(ValueError):
    """Data that cannot be used; the message is one line: what, where, what to do."""
