"""The views of an image that a network is tested on: crops, scales and mirroring."""
