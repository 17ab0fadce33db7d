"""Domain adaptation: a network trained on labelled source images learns to work on a target that looks different.

One file for each method (`batch_norm`, `coral`, `mmd`, `adversarial`, `mixing`, `information`,
`self_training`), each a page over the public API that can be copied; `adapt` runs them.
"""

from minidl.adaptation.adapt import Adapted, adapt, read_report
from minidl.adaptation.adversarial import (
    DomainAdversary,
    GradientReversal,
    reversal_strength,
    reverse_gradient,
)
from minidl.adaptation.alignment import Alignment, Both
from minidl.adaptation.batch_norm import adapt_batch_norms
from minidl.adaptation.coral import DeepCoral, coral_loss, covariance
from minidl.adaptation.domains import Domains, open_domains
from minidl.adaptation.information import InformationMaximisation, information_loss
from minidl.adaptation.methods import METHODS, AdaptSettings
from minidl.adaptation.mixing import mix_domains
from minidl.adaptation.mmd import MaximumMeanDiscrepancy, mmd_loss
from minidl.adaptation.report import DomainReport
from minidl.adaptation.self_training import SelfTraining, pseudo_labels, update_average

__all__ = [
    "METHODS",
    "AdaptSettings",
    "Adapted",
    "Alignment",
    "Both",
    "DeepCoral",
    "DomainAdversary",
    "DomainReport",
    "Domains",
    "GradientReversal",
    "InformationMaximisation",
    "MaximumMeanDiscrepancy",
    "SelfTraining",
    "adapt",
    "adapt_batch_norms",
    "coral_loss",
    "covariance",
    "information_loss",
    "mix_domains",
    "mmd_loss",
    "open_domains",
    "pseudo_labels",
    "read_report",
    "reversal_strength",
    "reverse_gradient",
    "update_average",
]
