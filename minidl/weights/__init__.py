"""Reading and writing weights: safetensors and PyTorch's `.pth` formats, without PyTorch."""

from __future__ import annotations

from minidl.weights.files import atomic_write
from minidl.weights.reading import load
from minidl.weights.safetensors_file import load_metadata, save
from minidl.weights.state import StateDict
from minidl.weights.torch_save import save_pth

__all__ = ["StateDict", "atomic_write", "load", "load_metadata", "save", "save_pth"]
