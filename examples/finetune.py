"""Fine-tune pretrained weights on a folder of class folders, evaluate and export.

python examples/finetune.py photos --weights torchvision:DEFAULT
"""

import argparse

import resnets

parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with one subfolder of images per class")
parser.add_argument("--weights", default="torchvision:DEFAULT", help="or a run, or a file")
parser.add_argument("--model", default="resnet50")
parser.add_argument("--size", type=int, default=224, help="px")
parser.add_argument("--epochs", type=float, default=10)
parser.add_argument("--out", default="runs/finetuned")
arguments = parser.parse_args()

run = resnets.train(
    "finetune",
    data=arguments.data,
    model=arguments.model,
    weights=arguments.weights,
    epochs=arguments.epochs,
    out=arguments.out,
    finetune={"head_first": 0.2},  # train only the head in the first fifth
    **{"data.size": arguments.size, "data.resize": arguments.size * 8 // 7},
)
ten_crop = resnets.evaluate(run, views="ten-crop", out=f"{arguments.out}/ten-crop")
artifact = resnets.export(run, "torch")
print(f"test error: {run.result['test']['top1_error']:.2f}%, ten-crop:", end=" ")
print(f"{ten_crop.metrics['top1_error']:.2f}%; report: {run.report}, exported: {artifact.path}")
