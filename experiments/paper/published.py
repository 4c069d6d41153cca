"""The MAIA paper's own figures (arXiv 2404.14394), to compare with ours."""

from __future__ import annotations

from collections.abc import Mapping

MeanPair = tuple[float, float]
"""Mean activation on images of the prompts that a label entails, and on those that it does not."""

TABLE_A3: Mapping[str, Mapping[str, Mapping[str, MeanPair]]] = {
    "resnet152": {
        "conv1": {"MILAN": (7.23, 3.38), "MAIA": (7.28, 3.53), "human": (7.83, 3.16)},
        "layer1": {"MILAN": (0.82, 0.73), "MAIA": (0.78, 0.69), "human": (0.46, 0.64)},
        "layer2": {"MILAN": (0.98, 0.92), "MAIA": (1.02, 0.90), "human": (0.83, 0.95)},
        "layer3": {"MILAN": (1.28, 0.72), "MAIA": (1.28, 0.70), "human": (2.59, 0.58)},
        "layer4": {"MILAN": (5.41, 2.04), "MAIA": (7.10, 1.74), "human": (7.89, 1.99)},
        "average": {"MILAN": (2.99, 1.42), "MAIA": (3.50, 1.33), "human": (4.15, 1.34)},
    },
    "dino_vits8": {
        "blocks.1.mlp.fc1": {"MILAN": (1.10, 0.94), "MAIA": (1.19, 0.74), "human": (0.63, 0.34)},
        "blocks.3.mlp.fc1": {"MILAN": (0.63, 0.96), "MAIA": (0.81, 0.87), "human": (0.55, 0.89)},
        "blocks.5.mlp.fc1": {"MILAN": (0.85, 1.01), "MAIA": (1.33, 0.97), "human": (0.84, 0.84)},
        "blocks.7.mlp.fc1": {"MILAN": (1.42, 0.77), "MAIA": (1.67, 0.82), "human": (2.58, 0.54)},
        "blocks.9.mlp.fc1": {"MILAN": (3.50, -1.15), "MAIA": (6.31, -0.81), "human": (8.64, -1.06)},
        "blocks.11.mlp.fc1": {"MILAN": (-1.56, -1.94), "MAIA": (-1.41, -1.84), "human": (-0.61, -2.49)},
        "average": {"MILAN": (1.03, -0.32), "MAIA": (1.93, 0.54), "human": (1.97, -0.23)},
    },
    "clip-RN50": {
        "layer1": {"MILAN": (1.92, 2.16), "MAIA": (2.10, 2.07), "human": (1.65, 2.15)},
        "layer2": {"MILAN": (2.54, 2.46), "MAIA": (2.78, 2.39), "human": (2.22, 2.81)},
        "layer3": {"MILAN": (2.24, 1.70), "MAIA": (2.27, 1.70), "human": (2.41, 1.96)},
        "layer4": {"MILAN": (3.56, 1.30), "MAIA": (4.90, 1.39), "human": (4.92, 1.29)},
        "average": {"MILAN": (2.79, 1.74), "MAIA": (3.41, 1.75), "human": (3.29, 1.89)},
    },
}
"""Table A3, by network, layer and method, as printed: some of its averages do not follow from its rows
(DINO's MAIA minus average and the human averages do not).
"""

TABLE_A5: Mapping[str, Mapping[str, MeanPair]] = {
    "resnet152": {"exemplars": (3.53, 1.54), "SD-v1.5": (3.56, 1.33), "DALL-E 3": (4.64, 1.53)},
    "dino_vits8": {"exemplars": (1.48, -0.37), "SD-v1.5": (1.98, -0.23), "DALL-E 3": (1.88, -0.27)},
    "clip-RN50": {"exemplars": (2.34, 1.90), "SD-v1.5": (3.62, 1.75), "DALL-E 3": (4.34, 1.90)},
}
"""Table A5: the first column uses only ImageNet's exemplars. The table does not say which column is the whole
system.
"""
