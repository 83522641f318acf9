"""`torch.hub.load(FOLDER, "model", source="local")` (needs `pip install resnets`)."""

dependencies = ["resnets"]


def model():
    """The model, in eval mode, with `.preprocess` and `.classes`."""
    from pathlib import Path

    import resnets

    return resnets.load(Path(__file__).parent)
