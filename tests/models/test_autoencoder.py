"""Autoencoders: PyTorch's numbers, every input size, corruption, classifiers from encoders, wrong arguments."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import Tensor, kernels, models, optim, weights
from minidl.models.autoencoder import ConvAutoencoder, gaussian_divergence, reparametrised
from minidl.testing import gradcheck
from tests.models import autoencoder_cases as cases

NAMES = models.list_models(task="autoencoder")
SMALL: dict[str, dict[str, Any]] = {
    "dense_autoencoder": {"widths": [6], "latent": 3},
    "conv_autoencoder": {"channels": [3, 4]},
    "denoising_autoencoder": {"channels": [3, 4], "batch_norm": True},
    "variational_autoencoder": {"channels": [3, 4], "hidden": 5, "latent": 2},
    "resnet_autoencoder": {"trunk_options": {"layers": [1, 1], "widths": [3, 4]}, "width": 3},
}


def build(name: str, size: tuple[int, int, int] = (1, 6, 5), **options: Any) -> models.Autoencoder:
    return models.create_autoencoder(name, input_size=size, **SMALL[name], **options)


def draw(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(1).random(shape, np.float32))


@pytest.fixture(scope="module")
def pytorch() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "fixtures" / "autoencoders.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", cases.CASES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_codes_losses_and_gradients_are_pytorchs(
    case: str, backend: str, pytorch: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, size, options = cases.CASES[case]
    model = models.create_autoencoder(name, input_size=size, **options).double()
    shapes = {n: a.shape for n, a in model.state_dict().items()}
    model.load_state_dict(cases.state(case, shapes))
    if "variational" in case:
        monkeypatch.setattr(minidl, "randn_like", lambda t: Tensor(cases.noise(case)))
    x = Tensor(cases.images(case))
    with kernels.use(backend):
        losses = model.losses(x)
        losses["loss"].backward()
        code, again = model.encode(x), model.reconstruct(x)
    close = {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(code.data, pytorch[f"{case}/code"], **close)
    np.testing.assert_allclose(again.data, pytorch[f"{case}/reconstruction"], **close)
    parts = [losses["loss"], losses.get("reconstruction", losses["loss"]), losses.get("kl", Tensor(0.0))]
    np.testing.assert_allclose([p.item() for p in parts], pytorch[f"{case}/loss"], **close)
    for parameter, p in model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(
            p.grad.data, pytorch[f"{case}/grad/{parameter}"], err_msg=parameter, **close
        )


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_training_follows_pytorchs_loss_curve(backend: str, pytorch: dict[str, np.ndarray]) -> None:
    name, size, options = cases.CASES["conv"]
    model = models.create_autoencoder(name, input_size=size, **options)
    shapes = {n: a.shape for n, a in model.state_dict().items()}
    model.load_state_dict({n: a.astype(np.float32) for n, a in cases.state("conv", shapes).items()})
    optimizer = optim.Adam(model.parameters(), cases.CURVE_LR)
    x, losses = Tensor(cases.images("conv").astype(np.float32)), []
    with kernels.use(backend):
        for _ in range(cases.CURVE_STEPS):
            optimizer.zero_grad()
            loss = model.losses(x)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]
    np.testing.assert_allclose(losses, pytorch["curve"], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_autoencoder_moves_to_another_device_and_back(name: str) -> None:
    minidl.manual_seed(0)
    model = build(name, (1, 3, 3), noise=0.1, mask=0.5)
    x, expected = draw(2, 1, 3, 3), []
    for device in ("cpu", "emulated"):
        model.to(device)
        minidl.manual_seed(1)
        loss = model.losses(x.to(device))["loss"]
        expected.append(loss.item())
    assert loss.device == "emulated" and expected[1] == pytest.approx(expected[0], rel=1e-5)
    assert model.classifier(2)(x).shape == (2, 2), "the classifier begins on the processor"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_a_reconstruction_has_the_shape_of_the_image_whatever_its_size(
    name: str, channels: int, height: int, width: int, depth: int
) -> None:
    size, options = (channels, height, width), dict(SMALL[name])
    if "channels" in options:
        options["channels"] = [2] * depth
    model = models.create_autoencoder(name, input_size=size, **options).eval()
    with kernels.use("reference"), minidl.no_grad():
        x = draw(2, *size)
        assert model.reconstruct(x).shape == x.shape
        assert model.decode(model.encode(x)).shape == x.shape


def test_a_decoder_that_does_not_fit_is_refused_in_the_constructor() -> None:
    class Wrong(ConvAutoencoder):
        def _check_shapes(self) -> None:
            self.decoder.append(self.decoder[-1].__class__(1, 1, 3))
            super()._check_shapes()

    with pytest.raises(ValueError, match=r"images \(1, 6, 5\) come back as \(1, 8, 7\)"):
        Wrong((1, 6, 5), [3])


def test_the_gradient_of_the_reparametrised_draw_and_of_the_divergence() -> None:
    rng = np.random.default_rng(3)
    mean = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    log_variance = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    noise = Tensor(rng.standard_normal((3, 4)))
    gradcheck(lambda m, v: reparametrised(m, v, noise), [mean, log_variance], second_order=True)
    gradcheck(gaussian_divergence, [mean, log_variance], second_order=True)


def test_the_divergence_is_zero_for_the_standard_normal_and_has_its_closed_form_elsewhere() -> None:
    assert gaussian_divergence(Tensor(np.zeros((2, 3))), Tensor(np.zeros((2, 3)))).item() == 0.0
    mean, variance = 1.5, 0.25  # KL = (variance + mean^2 - 1 - log variance) / 2
    found = gaussian_divergence(Tensor(np.full((2, 1), mean)), Tensor(np.full((2, 1), math.log(variance))))
    assert found.item() == pytest.approx((variance + mean**2 - 1 - math.log(variance)) / 2)


def test_draws_have_the_mean_and_the_variance_asked_for() -> None:
    minidl.manual_seed(0)
    noise = minidl.randn(100_000, 1)
    z = reparametrised(Tensor(np.float32([[2.0]])), Tensor(np.float32([[math.log(9.0)]])), noise).data
    assert z.mean() == pytest.approx(2.0, abs=0.03) and z.std() == pytest.approx(3.0, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_lowers_the_loss_of_the_same_images(name: str) -> None:
    minidl.manual_seed(0)
    model = build(name).eval()  # without noise in the input; the noise in the code is drawn from one seed
    x, losses = draw(8, 1, 6, 5), []
    optimizer = optim.Adam(model.parameters(), 0.01)
    for _ in range(12):
        optimizer.zero_grad()
        minidl.manual_seed(1)
        loss = model.losses(x)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_noise_and_mask_change_the_input_while_training_only() -> None:
    minidl.manual_seed(0)
    x = Tensor(np.full((400, 3, 32, 32), 0.5, np.float32))
    noisy = build("conv_autoencoder", (3, 32, 32), noise=0.3)
    spread = noisy.corrupt(x).data - x.data
    assert spread.std() == pytest.approx(0.3, abs=0.02) and abs(spread.mean()) < 0.02
    masked = build("conv_autoencoder", (3, 32, 32), mask=0.7)
    seen = masked.corrupt(x).data
    hidden = seen == 0
    assert hidden.mean() == pytest.approx(0.35, abs=0.02) and hidden.mean(axis=(1, 2, 3)).max() < 0.72
    assert np.array_equal(hidden[:, 0], hidden[:, 1]), "a pixel is hidden in all channels or in none"
    assert (seen[~hidden] == 0.5).all()
    for model in (noisy, masked):
        assert model.eval().corrupt(x) is x


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_has_the_encoder_and_its_weights_and_survives_a_file(
    name: str, tmp_path: Path
) -> None:
    model = build(name, (3, 9, 8)).eval()
    classifier = model.classifier(4)
    assert classifier.num_classes == 4 and classifier.pretrained_cfg.input_size == (3, 9, 8)
    x = draw(2, 3, 9, 8)
    with minidl.no_grad():
        logits = classifier(x)
        features = model.encoder(x) if name == "variational_autoencoder" else model.encode(x)
        np.testing.assert_array_equal(classifier.forward_features(x).data, features.data)
    assert logits.shape == (2, 4)
    classifier.classifier.weight.data[...] += 1.0
    assert np.array_equal(model.encode(x).data, build_again(model).encode(x).data), "a copy, not a view"
    file = tmp_path / "classifier.safetensors"
    weights.save(classifier.state_dict(), file)
    again = models.create(
        classifier.name, weights=file, pretrained_cfg=classifier.pretrained_cfg, **classifier.options
    ).eval()
    np.testing.assert_array_equal(again(x).data, classifier(x).data)
    groups = classifier.layer_groups()
    assert sum(len(p) for _, p in groups) == len(list(classifier.parameters()))
    assert groups[-1][0] == classifier.classifier_name


def build_again(model: models.Autoencoder) -> models.Autoencoder:
    """The same autoencoder from what it notes about itself."""
    again = models.create_autoencoder(
        model.name, weights=model.state_dict(), pretrained_cfg=model.pretrained_cfg.to_dict(), **model.options
    )
    return again.eval()


def test_the_encoder_of_a_resnet_autoencoder_is_that_resnet() -> None:
    classifier = build("resnet_autoencoder", (3, 8, 8)).classifier(3)
    assert isinstance(classifier, models.ResNet) and classifier.name == "resnet20"
    assert classifier.reset_classifier(0) is None and classifier(draw(1, 3, 8, 8)).shape == (1, 4)


def test_the_summary_counts_transposed_convolutions() -> None:
    rows = models.summarize(models.create_autoencoder("conv_autoencoder", (1, 28, 28), channels=[4])).rows
    down, up = (row for row in rows if row.multiply_adds)
    assert (down.kind, up.kind) == ("Conv2d", "ConvTranspose2d")
    assert down.multiply_adds == up.multiply_adds == 14 * 14 * 4 * 9


def test_a_variational_autoencoder_gives_new_images() -> None:
    model = build("variational_autoencoder")
    assert isinstance(model, models.VariationalAutoencoder)
    minidl.manual_seed(4)
    images = model.eval().sample(3).data
    assert images.shape == (3, 1, 6, 5) and images.min() >= 0 and images.max() <= 1


def test_a_classifier_and_an_autoencoder_are_not_taken_for_one_another() -> None:
    with pytest.raises(ValueError, match="conv_autoencoder is an autoencoder, no classifier"):
        models.create("conv_autoencoder")
    with pytest.raises(ValueError, match="resnet18 is no autoencoder; those are dense_autoencoder, conv"):
        models.create_autoencoder("resnet18")
    assert set(NAMES).isdisjoint(models.list_models(task="classifier"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("conv_autoencoder", {"channels": []}, "channels must be a list of positive integers"),
        ("conv_autoencoder", {"channels": [8, 0]}, "channels must be a positive integer, got 0"),
        ("conv_autoencoder", {"latent": 0}, "latent must be a positive integer"),
        ("conv_autoencoder", {"loss": "l1"}, "loss must be bce or mse, got 'l1'"),
        ("conv_autoencoder", {"mask": 1.5}, "mask must lie in 0..1, got 1.5"),
        ("conv_autoencoder", {"noise": -1}, "noise must lie in 0..inf, got -1"),
        ("dense_autoencoder", {"latent": True}, "latent must be a positive integer, got True"),
        ("variational_autoencoder", {"beta": -1.0}, "beta must be at least 0"),
        ("resnet_autoencoder", {"trunk": "conv_encoder"}, "trunk must be a ResNet, got 'conv_encoder'"),
        (
            "resnet_autoencoder",
            {"trunk": "resnet50_thin", "input_size": (3, 97, 97)},
            "its max-pooling must be padded",
        ),
        (
            "resnet_autoencoder",
            {"trunk_options": {"layers": [1], "widths": [4]}},
            "resnet20 needs two stages at least, it has 1",
        ),
        ("conv_encoder", {"latent": 3, "hidden": 4}, "give latent or hidden, not both"),
    ],
)
def test_a_wrong_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    create = models.create if name == "conv_encoder" else models.create_autoencoder
    with pytest.raises(ValueError, match=message):
        create(name, **options)


def test_a_wrong_input_size_is_named() -> None:
    for size in ((1, 28), (1, 0, 3), "28"):
        with pytest.raises(ValueError, match="input_size must be three positive integers"):
            models.create_autoencoder("conv_autoencoder", input_size=size)
    with pytest.raises(ValueError, match="input_size must be three positive integers"):
        ConvAutoencoder((1, 2, 3, 4))
