"""Tags of timm 1.0 for the networks of the catalog, so that a misspelt one is noticed offline.

Newer ones are available as hub:timm/NAME. Of a network without tags timm has no weights.
"""

from __future__ import annotations

from collections.abc import Mapping

RSB = ("a1_in1k", "a2_in1k", "a3_in1k")
SEMI = ("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k")
BOTH = ("tv2_in1k", "tv_in1k")
GLUON, RA2 = "gluon_in1k", "ra2_in1k"
RA4 = "ra4_e3600_r224_in1k"
BIT = ("goog_in21k", "goog_in21k_ft_in1k")
TIMM: Mapping[str, tuple[str, ...]] = {
    "resnet18": (*RSB, *SEMI, GLUON, "tv_in1k"),
    "resnet34": (*RSB, "bt_in1k", GLUON, RA4, "tv_in1k"),
    "resnet50": (
        *RSB, *SEMI, *BOTH, "a1h_in1k", "am_in1k", "b1k_in1k", "b2k_in1k", "bamboo", "bt_in1k",
        "c1_in1k", "c2_in1k", "d_in1k", GLUON, "ra_in1k", "ram_in1k",
    ),
    "resnet101": (*RSB, *BOTH, "a1h_in1k", GLUON),
    "resnet152": (*RSB, *BOTH, "a1h_in1k", GLUON),
    "resnet10t": ("c3_in1k",),
    "resnet14t": ("c3_in1k",),
    "resnet26": ("bt_in1k",),
    "resnet200": (),
    "resnet26t": (RA2,),
    "resnet50t": (),
    "resnet18d": (RA2, RA4),
    "resnet26d": ("bt_in1k",),
    "resnet34d": (RA2,),
    "resnet50d": (*RSB, GLUON, RA2, RA4),
    "resnet101d": (GLUON, RA2),
    "resnet152d": (GLUON, RA2),
    "resnet200d": (RA2,),
    **{f"resnet{depth}{letter}": (GLUON,) for depth in (50, 101, 152) for letter in "cs"},
    "resnext50_32x4d": (*RSB, *SEMI, *BOTH, "a1h_in1k", GLUON, "ra_in1k"),
    "resnext50d_32x4d": ("bt_in1k",),
    "resnext101_32x4d": (*SEMI, GLUON),
    "resnext101_32x8d": (*SEMI, *BOTH, "fb_wsl_ig1b_ft_in1k"),
    "resnext101_32x16d": (*SEMI, "fb_wsl_ig1b_ft_in1k"),
    "resnext101_64x4d": ("c1_in1k", GLUON, "tv_in1k"),
    "wide_resnet50_2": (*BOTH, "racm_in1k"),
    "wide_resnet101_2": BOTH,
    **{f"seresnet{depth}": () for depth in (18, 34, 101, 152)},
    "seresnet50": (*RSB, RA2),
    "seresnet152d": (RA2,),
    "seresnext26d_32x4d": ("bt_in1k",),
    "seresnext26t_32x4d": ("bt_in1k",),
    "seresnext50_32x4d": (GLUON, "racm_in1k"),
    "seresnext101_32x4d": (GLUON,),
    "seresnext101_32x8d": ("ah_in1k",),
    "seresnext101_64x4d": (GLUON,),
    "seresnext101d_32x8d": ("ah_in1k",),
    "ecaresnet26t": (RA2,),
    "ecaresnet50d": ("miil_in1k",),
    "ecaresnet50t": (*RSB, RA2),
    "ecaresnet101d": ("miil_in1k",),
    "ecaresnet269d": (RA2,),
    **{f"resnetrs{depth}": ("tf_in1k",) for depth in (50, 101, 152, 200, 270, 350, 420)},
    "resnetv2_50": ("a1h_in1k",),
    "resnetv2_50d": (),
    "resnetv2_101": ("a1h_in1k",),
    "resnetv2_101d": (),
    "resnetv2_50x1_bit": (*BIT, "goog_distilled_in1k"),
    **{f"resnetv2_{each}_bit": BIT for each in ("50x3", "101x1", "101x3", "152x4")},
    "resnetv2_152x2_bit": (
        *BIT, "goog_teacher_in21k_ft_in1k", "goog_teacher_in21k_ft_in1k_384",
    ),
    **{f"vgg{depth}{bn}": ("tv_in1k",) for depth in (11, 13, 16, 19) for bn in ("", "_bn")},
}  # fmt: skip
