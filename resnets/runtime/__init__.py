"""What computes a network: torch, ONNX Runtime, OpenVINO and torch.export programs."""
