"""The whole path in a minute: pretrained weights and images that ship with the package, fine-tuned and
evaluated.
"""

from minidl.quickstart.demo import ASSETS, WEIGHTS, Comparison, quickstart

__all__ = ["ASSETS", "WEIGHTS", "Comparison", "quickstart"]
