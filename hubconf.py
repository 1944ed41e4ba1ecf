"""Models for ``torch.hub.load``, with the weights that come with the repository.

``torch.hub.load(FOLDER, "deqflow_s", source="local")`` takes a checkout on this machine.
Whatever is callable here and has no underscore is a model there: types are not imported.
"""

from deqflow.zoo import create as _create
from deqflow.zoo import load as _load

dependencies = ["av", "cv2", "numpy", "PIL", "psutil", "safetensors", "torch"]


def deqflow_s(pretrained=True, **options):
    """Return deqflow-s.

    Args:
        pretrained: with the shipped weights, ready to estimate; otherwise random ones, to be trained.
        **options: those of `deqflow.load`: device, precision, ...
    """
    return estimator("deqflow-s", pretrained, **options)


def estimator(name="deqflow-s", pretrained=True, **options):
    """Return a preset by its name.

    Args:
        name: as ``deqflow models`` lists them.
        pretrained: with its weights, ready to estimate; otherwise random ones, to be trained.
        **options: those of `deqflow.load`; published models need ``checkpoint``, their file.
    """
    return _load(name, **options) if pretrained else _create(name)
