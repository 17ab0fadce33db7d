"""Self-training: a student learns the surest predictions of its own running average on target images.

Pseudo-labels with a threshold and two augmentations: Sohn et al.: FixMatch, 2020. The average as teacher: Tarvainen
and Valpola: Mean teachers are better role models, 2017. French, Mackiewicz and Fisher: Self-ensembling for visual
domain adaptation, 2018, put both together for a change of domain. With a weak augmentation w (crop, flip), a strong
one s, the teacher's prediction q = p_teacher(w(x)) and the threshold t,

    loss = weight * mean [max q >= t] H(argmax q, p_student(s(x)))
    teacher <- a teacher + (1 - a) student after each step k, with a = min(average, k / (k + 9))

The average is short at first, so that the teacher is soon better than the network that it began as: a teacher that
lags behind repeats that one's mistakes.

With `balance`, q is first divided by its running mean over the target and made a distribution again (Berthelot et
al.: ReMixMatch, 2020, sec. 3.1, with equally frequent classes): labels do not pile up on the classes that the
source network favours.
"""

from __future__ import annotations

import copy

import numpy as np

import minidl
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.tensor import Tensor
from minidl.training.metrics import log_softmax
from minidl.training.trainer import device_of

__all__ = ["SelfTraining", "pseudo_labels", "update_average"]


def pseudo_labels(
    logits: np.ndarray, threshold: float, frequency: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable classes int64 (N,) of logits (N, C), and whether each probability reaches `threshold`.

    `frequency` (C,) divides the probabilities, which are then scaled to the sum 1.
    """
    q = np.exp(log_softmax(logits))
    if frequency is not None:
        q /= frequency
        q /= q.sum(axis=1, keepdims=True)
    return q.argmax(axis=1), q.max(axis=1) >= threshold


def update_average(average: Module, model: Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model, for parameters and floating buffers; others are copied."""
    present = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with minidl.no_grad():
        for name, tensor in (*average.named_parameters(), *average.named_buffers()):
            new = present[name].to(tensor.device)
            tensor.copy_(decay * tensor + (1.0 - decay) * new if tensor.dtype.kind == "f" else new)


class SelfTraining(Module):
    """The teacher, and the loss that the student gets from it.

    `model` is copied. `kept` is the share of the last batch whose pseudo-label reached the threshold. All
    state (the teacher, the class frequencies, the number of steps) is in `state_dict()`.
    """

    frequency: Tensor
    steps: Tensor

    def __init__(
        self,
        model: Module,
        threshold: float = 0.9,
        average: float = 0.99,
        weight: float = 1.0,
        balance: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("average", average)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"SelfTraining: {name} must lie between 0 and 1, got {value}")
        self.threshold, self.average, self.weight, self.balance = threshold, average, weight, balance
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("frequency", np.full(classes, 1.0 / max(classes, 1)))
        self.register_buffer("steps", np.zeros((), np.int64))
        self.kept = 0.0

    def labels(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Pseudo-labels of weakly augmented images (N, C, H, W), and which of them count."""
        self.teacher.eval()
        with minidl.no_grad():
            logits = self.teacher(images.to(device_of(self.teacher))).cpu().numpy()
        if self.balance:
            mean = np.exp(log_softmax(logits)).mean(axis=0)
            self.frequency.data[...] = 0.95 * self.frequency.data + 0.05 * mean
        labels, sure = pseudo_labels(logits, self.threshold, self.frequency.data if self.balance else None)
        self.kept = float(sure.mean())
        return labels, sure

    def forward(self, images: Tensor, student_logits: Tensor) -> Tensor:
        """The loss above: `images` are the weakly augmented ones, the logits (N, C) those of the student on the
        strongly augmented ones.
        """
        labels, sure = self.labels(images)
        none = student_logits.shape[1]  # a class that does not exist: ignored
        losses = F.cross_entropy(
            student_logits, np.where(sure, labels, none), ignore_index=none, reduction="sum"
        )
        return losses * (self.weight / len(labels))

    def update(self, student: Module) -> None:
        """Move the teacher after a step of the student."""
        step = int(self.steps.item()) + 1
        self.steps.data[...] = step
        update_average(self.teacher, student, min(self.average, step / (step + 9)))

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, average={self.average}, weight={self.weight}, balance={self.balance}"
