"""Published weights in the networks they belong to (MINIDL_TEST_DATA holds the files)."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from minidl import kernels, models, nn
from minidl.autograd import no_grad
from minidl.tensor import Tensor

DATA = os.environ.get("MINIDL_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MINIDL_TEST_DATA is not set: no real weights to load")


def folder() -> Path:
    assert DATA is not None
    return Path(DATA)


def cifar_file(name: str) -> Path:
    (path,) = folder().glob(f"weights/cifar_resnet/{name}-*.th")
    return path


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_published_cifar_weights_load_strictly(name: str) -> None:
    model = models.create(name, weights=cifar_file(name))
    assert model.num_classes == 10 and model.replaced_classifier is None


def test_the_thin_resnet50_loads_through_options_alone() -> None:
    path = folder() / "weights" / "resnet50_thin" / "resnet50_thin.pth"
    options = {"widths": [32, 64, 128, 256], "stem_width": 64, "stride_in": "1x1"}
    model = models.create("resnet50", weights=path, pool_padding=0, pool_ceil_mode=True, **options)
    assert type(model) is models.ResNet and model.num_classes == 2
    named = models.create("resnet50_thin", weights=path)
    with no_grad(), kernels.use("reference"):
        x = Tensor(np.random.default_rng(0).uniform(-100, 100, (1, 3, 96, 96)).astype(np.float32))
        assert np.array_equal(model.eval()(x).numpy(), named.eval()(x).numpy())


def test_weights_of_one_network_do_not_load_into_another() -> None:
    with pytest.raises(nn.StateDictError, match=r"resnet20-\w+\.th does not fit model resnet56: .* missing"):
        models.create("resnet56", weights=cifar_file("resnet20"))
    with pytest.raises(nn.StateDictError, match="shape"):
        models.create("resnet18", weights=cifar_file("resnet20"))


def test_resnet20_classifies_real_images_as_it_should() -> None:
    # The file is the data set's own format, from a folder that the tests trust.
    batch = pickle.loads((folder() / "cifar-10-batches-py" / "test_batch").read_bytes(), encoding="bytes")
    count = 128
    pixels = batch[b"data"][:count].reshape(-1, 3, 32, 32).astype(np.float32)
    model = models.create("resnet20", weights=cifar_file("resnet20")).eval()
    config = model.pretrained_cfg
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (config.mean, config.std))
    with no_grad(), kernels.use("reference"):
        logits = model(Tensor((pixels * np.float32(config.scale) - mean) / std)).numpy()
    assert (logits.argmax(1) == batch[b"labels"][:count]).mean() > 0.88
