"""Inference runtimes: PyTorch, ONNX Runtime, OpenVINO and `torch.export` programs."""
