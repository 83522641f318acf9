"""The operations of augmentation policies, on groups of images, each with its own strength.

All take `images` (B, C, S, S) uint8, gray or color, in channels_last memory or not, and return new
ones. They do what Pillow's operations of these names do (policies were tuned on those), up to 1 of
255 where values are rounded; operations without a strength are torchvision's. `strength` is (B, 1,
1, 1) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# ITU-R 601-2 luma, as in Pillow's conversion to gray.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Scene:
    """Parameters that all images share.

    fill: (C,) uint8 for pixels that warps move into view. mode: sampling of warps, "bilinear" or
    "nearest". bgr: channels are blue, green, red.
    """

    fill: Tensor
    mode: str = "bilinear"
    bgr: bool = False


def gray(images: Tensor, scene: Scene) -> Tensor:
    """Return (B, 1, S, S) float32: brightness of each pixel, rounded as Pillow does."""
    planes = images.contiguous().float().unbind(1)  # strided planes take three times as long
    if len(planes) == 1:
        return planes[0][:, None]
    red, green, blue = reversed(planes) if scene.bgr else planes
    total = red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return total.add_(0.5).floor_()[:, None]


def blend(plain: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Return plain + strength * (images - plain); strength 1 leaves images unchanged."""
    return torch.lerp(plain, images.float(), strength).clamp_(0, 255).byte()


def color(images: Tensor, strength: Tensor, scene: Scene) -> Tensor:
    """Change saturation; 0 is gray."""
    images = images.contiguous()  # the layout that `gray` needs
    return blend(gray(images, scene), images, strength)


def contrast(images: Tensor, strength: Tensor, scene: Scene) -> Tensor:
    """Scale the distance from the mean brightness of the image."""
    mean = gray(images, scene).mean((1, 2, 3), keepdim=True).add_(0.5).floor_()
    return blend(mean, images, strength)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Scale brightness; 0 is black."""
    return images.mul(strength).clamp_(0, 255).byte()


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Change sharpness; 0 is smoothed by a 3 x 3 kernel, except the border."""
    if min(images.shape[2:]) < 3:
        return images.clone()
    values = images.short()  # the sums below stay within 13 * 255
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inside = images[:, :, 1:-1, 1:-1]
    smooth = sums.add_(inside, alpha=4).float().add_(6.5).div_(13).floor_()
    out = images.clone()
    out[:, :, 1:-1, 1:-1] = blend(smooth, inside, strength)
    return out


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the `bits` highest bits of each value."""
    lost = 8 - bits.int()
    return images & (255 >> lost << lost).byte()


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values of `threshold` and more."""
    above = images.short() >= threshold.ceil().short()  # comparing integers is faster
    return images ^ above.byte().mul_(255)


def solarize_add(images: Tensor, amount: Tensor) -> Tensor:
    """Add `amount` to values below 128."""
    return images + (images < 128).byte().mul_(amount.byte())  # at most 110: no overflow


def autocontrast(images: Tensor) -> Tensor:
    """Stretch the values of each channel to 0..255; constant channels are unchanged.

    torchvision's gives the same result, but synchronizes with the device to select these channels.
    """
    values = images.contiguous().float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    flat = low == high
    span = torch.where(flat, 1.0, (high - low).mul_(1 / 255))
    return values.sub_(torch.where(flat, 0.0, low)).div_(span).clamp_(0, 255).byte()


def warp(images: Tensor, matrices: Tensor, scene: Scene) -> Tensor:
    """Sample each pixel where its affine map (B, 2, 3) of coordinates -1..1 points to.

    Pixels from outside are filled, and do not bleed into the rest, as in Pillow.
    """
    size = images.shape[3]
    place = (2 * torch.arange(size, device=images.device) + 1) / size - 1  # pixel centers
    right, down, shift = matrices.unbind(2)  # (B, 2) each
    across = place[:, None] * right[:, None] + shift[:, None]  # (B, S, 2)
    grid = across[:, None] + (place[:, None] * down[:, None])[:, :, None]  # (B, S, S, 2)
    pixels = F.grid_sample(
        images.float(), grid, mode=scene.mode, padding_mode="border", align_corners=False
    )
    outside = (grid[..., 0].abs() > 1).logical_or_(grid[..., 1].abs() > 1)[:, None]
    return torch.where(outside, scene.fill[:, None, None].float(), pixels.round_()).byte()


def rotation(degrees: Tensor) -> Tensor:
    """Return the map of a counter-clockwise rotation about the center, for `warp`."""
    angle = torch.deg2rad(degrees.flatten())
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack((cos, -sin, zero, sin, cos, zero), 1).view(-1, 2, 3)


def shear_x(slope: Tensor) -> Tensor:
    """Return the map for `warp` that shifts each row `slope` px further left than the last.

    The top border is not moved.
    """
    slope = slope.flatten()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return torch.stack((one, slope, slope, zero, one, zero), 1).view(-1, 2, 3)


def translate_x(pixels: Tensor, size: int) -> Tensor:
    """Return the map of a shift to the left by `pixels` out of `size`, for `warp`."""
    shift = 2 / size * pixels.flatten()
    one, zero = torch.ones_like(shift), torch.zeros_like(shift)
    return torch.stack((one, zero, shift, zero, one, zero), 1).view(-1, 2, 3)


def along_y(matrices: Tensor) -> Tensor:
    """Exchange x and y of a map: up instead of left."""
    x, y, shift = matrices.flip(1).split(1, 2)  # an index list would be copied to the device
    return torch.cat((y, x, shift), 2)


def _torchvision() -> Any:
    """Import torchvision's operations, which imports torch's compiler and takes seconds."""
    from torchvision.transforms.v2 import functional

    return functional


Operation = Callable[[Tensor, Tensor, Scene], Tensor]
OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, _, __: images,
    "autocontrast": lambda images, _, __: autocontrast(images),
    "equalize": lambda images, _, __: _torchvision().equalize(images.contiguous()),
    "invert": lambda images, _, __: _torchvision().invert(images),
    "posterize": lambda images, bits, _: posterize(images, bits),
    "solarize": lambda images, threshold, _: solarize(images, threshold),
    "solarize_add": lambda images, amount, _: solarize_add(images, amount),
    "color": color,
    "contrast": contrast,
    "brightness": lambda images, strength, _: brightness(images, strength),
    "sharpness": lambda images, strength, _: sharpness(images, strength),
    "rotate": lambda images, degrees, scene: warp(images, rotation(degrees), scene),
    "shear_x": lambda images, slope, scene: warp(images, shear_x(slope), scene),
    "shear_y": lambda images, slope, scene: warp(images, along_y(shear_x(slope)), scene),
    "translate_x": lambda images, pixels, scene: warp(
        images, translate_x(pixels, images.shape[3]), scene
    ),
    "translate_y": lambda images, pixels, scene: warp(
        images, along_y(translate_x(pixels, images.shape[2])), scene
    ),
}
