"""Task metrics of the medical suites: Dice and instance F1 of maps, AUROC and balanced accuracy of images.

    Dice = 2 |P ∩ T| / (|P| + |T|)        F1 = 2 TP / (2 TP + FP + FN), a pair counts where IoU = |p ∩ t| / |p ∪ t| > ½

The suites `nuclei-unet` and `covid-cnn` report them; the page `datasets` says what they are measured on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning_lib.companion._arguments import checked, said


def dice(predicted: Tensor, targets: Tensor) -> float:
    """Return the Dice coefficient of two maps, pooled over all pixels of all images (Dice, 1945).

    Parameters
    ----------
    predicted, targets : Tensor
        Of one shape; what is not 0 is foreground.

    Returns
    -------
    float
        In 0 … 1; 1 if neither map has any foreground.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> dice(torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 0, 0])) == 2 * 1 / (2 + 1)
    True
    """
    _same_shape("dice", predicted, targets)
    p, t = predicted != 0, targets != 0
    total = int(p.sum() + t.sum())
    return 2 * int((p & t).sum()) / total if total else 1.0


def instance_f1(predicted: Tensor, instances: Tensor) -> float:
    """Return the F1 score of predicted objects, matched one to one where their IoU is above one half.

    Two objects of one map cannot both cover more than half of one object of the other, so the matching is unique.
    Objects are pooled over all images: one with many counts more.

    Parameters
    ----------
    predicted : Tensor
        (n, height, width), 0 for background. A boolean map, or one of 0 and 1, is cut into its `components` first:
        touching objects then count as one.
    instances : Tensor
        (n, height, width) integers, 0 for background, another number for each object of an image.

    Returns
    -------
    float
        In 0 … 1; 1 if neither map has any object.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n, height, width).

    Examples
    --------
    >>> import torch
    >>> true = torch.tensor([[[1, 1, 0, 2, 2]]])
    >>> instance_f1(torch.tensor([[[1, 1, 0, 1, 0]]]), true)  # one of two: half of an object is not enough
    0.5
    """
    _same_shape("instance_f1", predicted, instances)
    checked("instance_f1", instances=instances)
    if predicted.dtype == torch.bool or int(predicted.max()) <= 1:
        predicted = components(predicted)
    elif predicted.dim() != 3:
        raise ValueError(f"instance_f1 expects maps of shape (n, height, width), got {tuple(predicted.shape)}.")
    p, t = _numbered(predicted), _numbered(instances)
    sizes_p, sizes_t = torch.bincount(p), torch.bincount(t)
    pairs, overlap = torch.unique(p * len(sizes_t) + t, return_counts=True)
    a, b = pairs // len(sizes_t), pairs % len(sizes_t)
    union = sizes_p[a] + sizes_t[b] - overlap
    hits = int(((a > 0) & (b > 0) & (2 * overlap > union)).sum())
    objects = len(sizes_p) + len(sizes_t) - 2  # the background of each is number 0
    return 2 * hits / objects if objects else 1.0


def components(maps: Tensor) -> Tensor:
    """Return the connected components of foreground, where pixels touch along an edge.

    Parameters
    ----------
    maps : Tensor
        (n, height, width); what is not 0 is foreground.

    Returns
    -------
    Tensor
        (n, height, width) int64: 0 for background, 1, 2, … for the components of each image, in reading order.

    Raises
    ------
    ValueError
        If the shape is another.

    Examples
    --------
    >>> import torch
    >>> components(torch.tensor([[[1, 0, 1], [1, 0, 0]]]))
    tensor([[[1, 0, 2],
             [1, 0, 0]]])
    """
    from scipy.ndimage import label  # slow to import

    checked("components", maps=maps)
    if maps.dim() != 3:
        raise ValueError(f"components expects maps of shape (n, height, width), got {tuple(maps.shape)}.")
    foreground = (maps != 0).cpu().numpy()
    labels = torch.zeros(maps.shape, dtype=torch.int64)
    for image, numbered in zip(foreground, labels, strict=True):
        label(image, output=numbered.numpy())
    return labels.to(maps.device)


def auroc(scores: Tensor, targets: Tensor) -> float:
    """Return the area under the ROC curve, one class against the rest, averaged over the classes.

    Parameters
    ----------
    scores : Tensor
        (n, classes) logits or probabilities. Two classes are ranked by the difference of their scores.
    targets : Tensor
        (n,) classes.

    Returns
    -------
    float
        In 0 … 1; chance is ½ whatever the share of a class.

    Raises
    ------
    ValueError
        If a class has no example, or all of them.

    Examples
    --------
    >>> import torch
    >>> scores = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    >>> auroc(scores, torch.tensor([0, 0, 1, 1]))  # three of four pairs are in order
    0.75
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    checked("auroc", scores=scores, classes=targets)
    targets = targets.long()
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(f"auroc needs scores (n, classes) and n classes; got {said('scores', scores)}.")
    classes = scores.shape[1]
    counts = targets.bincount(minlength=classes)
    if len(counts) > classes or counts.min() == 0 or classes < 2:
        raise ValueError(
            f"auroc needs examples of each of {classes} classes, got {counts.tolist()}; use a larger part."
        )
    scores = scores.detach().double().cpu()
    if classes == 2:
        scores = torch.stack([scores[:, 0] - scores[:, 1], scores[:, 1] - scores[:, 0]], 1)
    truth = targets.cpu()
    areas = [roc_auc_score((truth == c).numpy(), scores[:, c].numpy()) for c in range(classes)]
    return float(sum(areas) / classes)


def balanced_accuracy(predicted: Tensor, targets: Tensor) -> float:
    """Return the mean over classes of the share of their examples that were recognized.

    Parameters
    ----------
    predicted, targets : Tensor
        (n,) classes. Classes that no target has are left out.

    Returns
    -------
    float
        In 0 … 1; always answering one class gives 1 / classes.

    Raises
    ------
    ValueError
        If the shapes differ or there is no example.

    Examples
    --------
    >>> import torch
    >>> balanced_accuracy(torch.zeros(4).long(), torch.tensor([0, 0, 0, 1]))
    0.5
    """
    # scikit-learn's is the same in double precision, whose digits would not be those of the stored records.
    _same_shape("balanced_accuracy", predicted, targets)
    checked("balanced_accuracy", classes=targets)
    if not len(targets):
        raise ValueError("balanced_accuracy got no example.")
    counts = targets.bincount()
    right = targets[predicted == targets].bincount(minlength=len(counts))
    return float((right[counts > 0] / counts[counts > 0]).mean())


def _numbered(maps: Tensor) -> Tensor:
    """Return (pixels,) numbers: 0 for background, 1, 2, … for every object of every image."""
    names, places = torch.unique(maps, return_inverse=True)  # any numbers name objects, however large
    image = torch.arange(len(maps), device=maps.device).view(-1, 1, 1) * len(names)
    values = torch.where(maps != 0, places + image + 1, 0).flatten()
    objects, numbers = torch.unique(values, return_inverse=True)
    shifted: Tensor = numbers if int(objects[0]) == 0 else numbers + 1
    return shifted


def _same_shape(name: str, one: Tensor, other: Tensor) -> None:
    checked(name, predicted=one, targets=other)
    if one.shape != other.shape:
        raise ValueError(f"{name} got shapes {tuple(one.shape)} and {tuple(other.shape)}, which have to be equal.")
