"""What files of weights state beside their tensors: network, images, names of classes."""
