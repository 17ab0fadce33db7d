"""Data sets, image decoding, transforms and the loader of batches. Pillow is imported by the first call
that needs it.
"""

from minidl.data.cifar import CIFAR10, CIFAR10_CLASSES
from minidl.data.dataset import ArrayDataset, ConcatDataset, Dataset, ImageLike, Subset, stratified_split
from minidl.data.decode import decode_file, decode_image
from minidl.data.folder import IMAGE_EXTENSIONS, ImageFolder, ZipImageFolder
from minidl.data.idx import FASHION_MNIST_CLASSES, MNIST, FashionMNIST, Idx, read_idx
from minidl.data.loader import DataLoader
from minidl.data.opening import Splits, open_dataset
from minidl.data.presets import eval_transform, train_transform

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "FASHION_MNIST_CLASSES",
    "IMAGE_EXTENSIONS",
    "MNIST",
    "ArrayDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "FashionMNIST",
    "Idx",
    "ImageFolder",
    "ImageLike",
    "Splits",
    "Subset",
    "ZipImageFolder",
    "decode_file",
    "decode_image",
    "eval_transform",
    "open_dataset",
    "read_idx",
    "stratified_split",
    "train_transform",
]
