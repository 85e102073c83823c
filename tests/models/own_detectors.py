"""The source of a module of detectors, as a user would write it, for tests to put into a folder of their own."""

MODULE = '''
import torch
from torch import nn

from rethink_heads.detectors.base import Detections, HeadOutput


class Minimal:
    """All that the Protocol asks for: the scores are those of the mean colour in the box."""

    class_names, heads, device = ("red", "green"), ("colour",), torch.device("cpu")

    def __init__(self, sharpness=1.0):
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.sharpness = sharpness

    def extract(self, image):
        return image.float() / 255

    def pool(self, features, boxes):
        return {}

    def predict(self, features, roi_features, boxes):
        colours = torch.stack([self.mean(features, box) for box in boxes.round().long()])
        scores = (self.sharpness * self.layer(colours)).softmax(-1)
        return {"colour": HeadOutput(scores, boxes[:, None].expand(-1, 2, 4))}

    def mean(self, features, box):
        x1, y1, x2, y2 = box.tolist()
        return features[:, y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)].mean(dim=(1, 2)).nan_to_num()


class Full(Minimal):
    """With everything that is optional."""

    def pool(self, features, boxes):
        rois = [features[:, : 4 * 7, : 4 * 7].reshape(3, 7, 4, 7, 4).mean(dim=(2, 4)) for _ in boxes]
        return {"box": torch.stack(rois)}

    def propose(self, image):
        boxes = torch.tensor([[8.0, 8.0, 30.0, 30.0], [0.0, 0.0, 64.0, 48.0], [12.0, 10.0, 40.0, 32.0]])
        return self.extract(image), boxes

    def detect(self, image):
        features, boxes = self.propose(image)
        scores = self.predict(features, {}, boxes)["colour"].scores.detach()
        best = scores.max(dim=1)
        order = best.values.argsort(descending=True)
        return {"colour": Detections(boxes[order], best.values[order], best.indices[order])}

    def output_maps(self, roi_features):
        return {"colour": roi_features["box"]}

    def weight_maps(self):
        return {}


class OtherNames(Full):
    class_names = ("Green", "blue", "scarlet")

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def predict(self, features, roi_features, boxes):
        colours = torch.stack([self.mean(features, box) for box in boxes.round().long()])
        return {"colour": HeadOutput(self.layer(colours).softmax(-1), boxes[:, None].expand(-1, 3, 4))}


def minimal():
    return Minimal()


def full(weights=None):
    if weights is None:
        return Full(1.0)
    from my_factor import FACTOR

    return Full(FACTOR * float(open(weights).read()))


def sharp():
    return Full(8.0)


def other_names():
    return OtherNames()
'''
