"""The heads written a second time in numpy float64, with plain loops over what the paper states; final detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

Array = np.ndarray


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two boxes, xyxy."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both) if both else 0.0


def kept_detections(
    scores: Tensor,
    boxes: Tensor,
    least_sides: Sequence[float] = (0.01, 0.01),
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    most: int = 100,
) -> tuple[Array, Array, Array]:
    """Boxes, scores and labels left of scores (N, K) and boxes (N, K, 4), best first.

    Boxes with a side below the least go, then greedy suppression within each class and a cut.
    """
    scores, boxes = scores.double().numpy(), boxes.double().numpy()
    rows, labels = np.nonzero(scores > score_threshold)
    kept: list[tuple[int, int]] = []
    for place in np.argsort(-scores[rows, labels], kind="stable"):
        row, label = rows[place], labels[place]
        box = boxes[row, label]
        if (box[2:] - box[:2] < least_sides).any():
            continue
        if all(iou(box, boxes[r, k]) <= nms_threshold for r, k in kept if k == label):
            kept.append((row, label))
        if len(kept) == most:
            break
    rows, labels = np.array(kept, dtype=int).reshape(-1, 2).T
    return boxes[rows, labels], scores[rows, labels], labels


def arrays(module: nn.Module) -> dict[str, Array]:
    """Parameters and buffers of a module in float64."""
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    """(N, in) to (N, out)."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def convolve(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Convolution that keeps the resolution, one output position and one tap at a time."""
    side = kernel.shape[-1]
    margin = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    out = np.zeros((x.shape[0], kernel.shape[0], *x.shape[2:]))
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            window = padded[:, :, row : row + side, column : column + side]
            for n in range(x.shape[0]):
                for o in range(kernel.shape[0]):
                    out[n, o, row, column] = (window[n] * kernel[o]).sum()
    return out if bias is None else out + bias[:, None, None]


def normalise(x: Array, weights: dict[str, Array], name: str) -> Array:
    """Batch normalisation with running statistics, eps 1e-5."""

    def along_channels(part: str) -> Array:
        return weights[f"{name}.{part}"][:, None, None]

    scaled = (x - along_channels("running_mean")) / np.sqrt(along_channels("running_var") + 1e-5)
    return scaled * along_channels("weight") + along_channels("bias")


def conv_bn(x: Array, weights: dict[str, Array], name: str) -> Array:
    """Convolution without bias, then normalisation."""
    return normalise(convolve(x, weights[f"{name}.0.weight"]), weights, f"{name}.1")


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def fc_head(x: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
    """Logits and deltas."""
    flat = x.reshape(len(x), -1)
    hidden = relu(linear(relu(linear(flat, weights, "fc6")), weights, "fc7"))
    return linear(hidden, weights, "predictor.cls_score"), linear(
        hidden, weights, "predictor.bbox_pred"
    )


def residual_block(x: Array, weights: dict[str, Array], name: str) -> Array:
    main = conv_bn(relu(conv_bn(x, weights, f"{name}.expand")), weights, f"{name}.project")
    return relu(main + conv_bn(x, weights, f"{name}.shortcut"))


def bottleneck(x: Array, weights: dict[str, Array], name: str) -> Array:
    main = relu(conv_bn(x, weights, f"{name}.reduce"))
    main = relu(conv_bn(main, weights, f"{name}.spatial"))
    return relu(x + conv_bn(main, weights, f"{name}.restore"))


def non_local(x: Array, weights: dict[str, Array], name: str, groups: int) -> Array:
    """Each group's affinity between positions, divided by their number, one pair at a time."""
    theta, phi, g = (
        convolve(x, weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])
        for part in ("theta", "phi", "g")
    )
    n, inner, height, width = theta.shape
    positions, share = height * width, inner // groups
    theta, phi, g = (part.reshape(n, inner, positions) for part in (theta, phi, g))
    mixed = np.zeros((n, inner, positions))
    for image in range(n):
        for group in range(groups):
            channels = slice(group * share, (group + 1) * share)
            for a in range(positions):
                for b in range(positions):
                    affinity = theta[image, channels, a] @ phi[image, channels, b] / positions
                    mixed[image, channels, a] += affinity * g[image, channels, b]
    mixed = mixed.reshape(n, inner, height, width)
    return relu(x + conv_bn(mixed, weights, f"{name}.out"))
