"""Nets on pictures of any size: what pools globally as it is, what does not as convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.data import Preprocessor
from resnets.models import ImageClassifier
from resnets.models.vgg import POOLED, VGG

Forward = Callable[[Tensor], Tensor]


def fully_convolutional(net: ImageClassifier) -> Forward:
    """`net` as a function of pictures (B, C, H, W) of any size to logits (B, K).

    The logits are the mean over all positions of the class score map (Sermanet et al. 2014;
    Simonyan and Zisserman 2015, section 3.2). A linear head commutes with that mean, so a net
    that pools globally is its own fully convolutional form. VGG's first linear layer becomes a
    convolution over the window of features that it sees of one training picture.
    """
    return _vgg(net) if isinstance(net, VGG) else net


def _vgg(net: VGG) -> Forward:
    window = max(1, net.spec.input_size // 2 ** len(net.spec.depths))  # features of one picture
    # (window, 7): how much each of `window` rows gives to each of the 7 that the net pools them to;
    # the identity at 224 px. Pooling and linear layer together are one kernel.
    share = F.adaptive_avg_pool1d(torch.eye(window)[None], POOLED)[0].to(net.fc1.weight)
    weight = net.fc1.weight.detach().unflatten(1, (-1, POOLED, POOLED))  # (4096, C, 7, 7)
    kernel = torch.einsum("ocij,yi,xj->ocyx", weight, share, share)

    def forward(images: Tensor) -> Tensor:
        features = net.stages(images)[net.stage_names[-1]]
        x = F.relu(F.conv2d(features, kernel, net.fc1.bias), inplace=True)  # (B, 4096, H', W')
        x = F.relu(net.fc2(x.movedim(1, -1)), inplace=True)  # linear at each position
        return net.head(x).mean((1, 2))

    return forward


def normalize(preprocessor: Preprocessor, images: Tensor) -> Tensor:
    """`preprocessor.normalize` for pictures of any size, (B, C, H, W) uint8 to float32.

    A mean picture is stretched over pictures of another size than its own.
    """
    mean = preprocessor.mean_image
    if mean is not None and mean.shape[1:] != images.shape[2:]:
        size = (images.shape[2], images.shape[3])
        mean = F.interpolate(mean[None], size, mode="bilinear", antialias=True)[0]
        preprocessor = Preprocessor(preprocessor.spec, mean)
    return preprocessor.normalize(images)
