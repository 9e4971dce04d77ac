"""The networks that benchmarks/removal.py shrinks: libraries of models of images, built with random weights.

Each is a function that builds a module and an example input. Nothing is downloaded; a library that is not installed
is left out. Models of text and speech stand in removal_transformers.py, nets of a few layers in removal_nets.py.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import backbone_utils
from torchvision.ops import roi_align

from extcon_cli.channels.compare import Inputs

Built = tuple[nn.Module, Inputs]
Builder = Callable[[], Built]

SIZES = {"inception_v3": 299, "maxvit_t": 224, "vgg*": 32, "densenet*": 32, "vit_h_14": 56}  # pixels; others: 64
TIMM = (
    "resnet18", "resnet26d", "resnext50_32x4d", "res2net50_14w_8s", "regnetx_002", "regnety_002", "densenet121",
    "efficientnet_b0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "ghostnet_100",
    "ghostnetv2_100", "convnext_atto", "convnextv2_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224", "poolformer_s12", "nf_resnet26",
    "eca_nfnet_l0", "dm_nfnet_f0", "hrnet_w18_small", "repvgg_a0", "dla34", "cspresnet50", "mobilevit_xxs",
    "edgenext_xx_small", "resmlp_12_224", "gmlp_ti16_224",
)  # fmt: skip
MORE_TIMM = (
    "seresnet50", "ecaresnet26t", "skresnet18", "resnest14d", "gernet_s", "selecsls42", "vovnet39a",
    "ese_vovnet19b_dw", "cspdarknet53", "dpn68", "inception_v4", "xception41", "mnasnet_small", "fbnetc_100",
    "tinynet_e", "mixnet_s", "lcnet_050", "rexnet_100", "repghostnet_050", "mobileone_s0", "efficientformer_l1",
    "fastvit_t8", "efficientvit_b0", "efficientvit_m0", "levit_128s", "pit_ti_224", "cait_xxs24_224",
    "xcit_nano_12_p16_224", "tnt_s_patch16_224", "twins_svt_small", "visformer_tiny", "coat_tiny", "crossvit_tiny_240",
    "convit_tiny", "mobilevitv2_050", "coatnet_nano_rw_224", "pvt_v2_b0", "focalnet_tiny_srf", "davit_tiny",
    "sequencer2d_s", "inception_next_atto", "caformer_s18", "starnet_s1", "hgnetv2_b0", "rdnet_tiny", "repvit_m0_9",
    "hiera_tiny_224", "beit_base_patch16_224", "tiny_vit_5m_224", "resnetv2_50", "gcresnet33ts",
)  # fmt: skip
TIMM_SIZES = {"vit*": 64, "deit*": 64, "mixer*": 64, "resmlp*": 64, "gmlp*": 64, "swin*": 112, "hrnet*": 64}
FIXED = ("_224", "_240", "efficientformer_l1", "levit_128s", "visformer_tiny", "efficientvit_m0", "convit")
"""Parts of the names of those of timm that take images of one size only, their own."""
YOLO = (
    "yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolo11n", "yolo11n-seg", "yolo11n-pose",
    "yolo11n-cls",
)  # fmt: skip
TASKS = {
    "seg": "SegmentationModel",
    "pose": "PoseModel",
    "cls": "ClassificationModel",
}  # of ultralytics; else detection
BACKBONES = ("resnet18_fpn", "resnet50_fpn", "mobilenet_v3_large_fpn", "mobilenet_v3_small", "ssd300_vgg16")
DETECTORS = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large",
             "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")  # fmt: skip


class TwoRounds(nn.Module):
    """RAFT with two rounds of refinement, which show what twelve do."""

    def __init__(self, raft: nn.Module) -> None:
        super().__init__()
        self.raft = raft

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        return self.raft(first, second, num_flow_updates=2)


class Detector(nn.Module):
    """A detector of torchvision from the images to what its heads say, without the choice of boxes after it.

    Where a second stage looks at boxes that the first one chose, it looks at the same two boxes of each image.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Any]:
        features = self.detector.backbone(images)
        levels = list(features.values())
        if not hasattr(self.detector, "roi_heads"):
            return [self.detector.head(levels)]
        heads = self.detector.roi_heads
        boxes = images.new_tensor([[0.0, 0.0, 40.0, 30.0], [10.0, 5.0, 60.0, 62.0]])
        rows = [torch.cat([boxes.new_full((2, 1), float(n)), boxes], 1) for n in range(len(images))]
        found = [self.detector.rpn.head(levels)]
        found.append(heads.box_predictor(heads.box_head(roi_align(levels[0], torch.cat(rows), 7, 0.25, 2))))
        for kind in ("mask", "keypoint"):
            if getattr(heads, f"{kind}_head", None) is not None:
                seen = getattr(heads, f"{kind}_head")(roi_align(levels[0], torch.cat(rows), 14, 0.25, 2))
                found.append(getattr(heads, f"{kind}_predictor")(seen))
        return found


def models() -> dict[str, Builder]:
    """Every model of images by 'family:name'."""
    found: dict[str, Builder] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        found[f"torchvision:{name}"] = partial(_torchvision, name)
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        found[f"segmentation:{name}"] = partial(_segmentation, name)
    found |= {f"detection:{name}": partial(_backbone, name) for name in BACKBONES}
    found |= {f"detectors:{name}": partial(_detector, name) for name in DETECTORS}
    found |= {f"optical_flow:{name}": partial(_raft, name) for name in ("raft_small", "raft_large")}
    if installed("timm"):
        found |= {f"timm:{name}": partial(_timm, name) for name in (*TIMM, *MORE_TIMM)}
    os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    if installed("ultralytics"):
        found |= {f"ultralytics:{name}": partial(_yolo, name) for name in YOLO}
    if installed("diffusers"):
        found |= {f"diffusers:{name}": build for name, build in _diffusers().items()}
    return found


def installed(name: str) -> bool:
    """Whether a library is there; it is imported then."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def image(size: int) -> tuple[Tensor]:
    """Two images."""
    return (torch.randn(2, 3, size, size),)


def _pixels(name: str, sizes: Mapping[str, int]) -> int:
    return next((size for pattern, size in sizes.items() if fnmatch.fnmatch(name, pattern)), 64)


def _torchvision(name: str) -> Built:
    size = _pixels(name, SIZES)
    extra: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        extra |= {"init_weights": False}
    return torchvision.models.get_model(name, weights=None, **extra), image(size)


def _segmentation(name: str) -> Built:
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=None), image(64)


def _backbone(name: str) -> Built:
    if name == "ssd300_vgg16":
        return torchvision.models.get_model(name, weights=None, weights_backbone=None).backbone, image(300)
    if name.startswith("resnet"):
        return backbone_utils.resnet_fpn_backbone(backbone_name=name.removesuffix("_fpn"), weights=None), image(64)
    plain = name.removesuffix("_fpn")
    return backbone_utils.mobilenet_backbone(backbone_name=plain, weights=None, fpn=plain != name), image(64)


def _detector(name: str) -> Built:
    size = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(name, 64)
    return Detector(torchvision.models.get_model(name, weights=None, weights_backbone=None)), image(size)


def _raft(name: str) -> Built:
    return TwoRounds(torchvision.models.get_model(name, weights=None)), (*image(128), *image(128))


def _timm(name: str) -> Built:
    import timm

    if name in MORE_TIMM:
        size = 240 if "_240" in name else 224 if any(part in name for part in FIXED) else 64
        return timm.create_model(name, pretrained=False), image(size)
    size = _pixels(name, TIMM_SIZES)
    extra = {"img_size": size} if any(fnmatch.fnmatch(name, p) for p in list(TIMM_SIZES)[:-1]) else {}
    return timm.create_model(name, pretrained=False, **extra), image(size)


def _yolo(name: str) -> Built:
    from ultralytics.nn import tasks

    kind = getattr(tasks, TASKS.get(name.partition("-")[2], "DetectionModel"))
    return kind(f"{name}.yaml", verbose=False), image(64)


def _diffusers() -> dict[str, Builder]:
    import diffusers

    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    crossed = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
               "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
    coded = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    steps = torch.tensor([3, 40])

    def unet() -> Built:
        model = diffusers.UNet2DModel(sample_size=16, down_block_types=down, up_block_types=up, **small)
        return model, {"sample": image(16)[0], "timestep": steps, "return_dict": False}

    def conditioned() -> Built:
        model = diffusers.UNet2DConditionModel(
            sample_size=16, cross_attention_dim=32, attention_head_dim=8, **crossed, **small
        )
        inputs = {"sample": torch.randn(2, 4, 16, 16), "timestep": steps, "return_dict": False}
        return model, {**inputs, "encoder_hidden_states": torch.randn(2, 7, 32)}

    def vae() -> Built:
        return diffusers.AutoencoderKL(latent_channels=4, **coded, **small), {"sample": image(16)[0]}

    return {"UNet2DModel": unet, "UNet2DConditionModel": conditioned, "AutoencoderKL": vae}
