"""Export models to ONNX, OpenVINO and `torch.export`; verification and backend selection."""
