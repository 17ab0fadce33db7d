"""Data sets, image decoding, transforms and the loader of batches. Pillow is imported by the first call
that needs it.
"""

from minidl.data.cifar import CIFAR10, CIFAR10_CLASSES
from minidl.data.dataset import (
    ArrayDataset,
    ConcatDataset,
    Dataset,
    ImageLike,
    Subset,
    few_per_class,
    stratified_split,
)
from minidl.data.decode import decode_file, decode_image
from minidl.data.folder import IMAGE_EXTENSIONS, ImageFiles, ImageFolder, ZipImageFolder
from minidl.data.idx import FASHION_MNIST_CLASSES, MNIST, FashionMNIST, Idx, read_idx
from minidl.data.loader import DataLoader
from minidl.data.opening import Splits, open_dataset
from minidl.data.presets import eval_transform, train_transform
from minidl.data.unlabelled import ANY_CLASS, open_images

__all__ = [
    "ANY_CLASS",
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
    "ImageFiles",
    "ImageFolder",
    "ImageLike",
    "Splits",
    "Subset",
    "ZipImageFolder",
    "decode_file",
    "decode_image",
    "eval_transform",
    "few_per_class",
    "open_dataset",
    "open_images",
    "read_idx",
    "stratified_split",
    "train_transform",
]
