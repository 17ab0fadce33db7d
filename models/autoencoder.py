"""Autoencoders: networks that learn a short code of images by giving the images back, without labels.

Hinton and Salakhutdinov: Reducing the dimensionality of data with neural networks, 2006 (dense); Masci et
al.: Stacked convolutional auto-encoders, 2011; Vincent et al.: Extracting and composing robust features with
denoising autoencoders, 2008; Kingma and Welling: Auto-encoding variational Bayes, 2014, with the factor beta
of Higgins et al.: beta-VAE, 2017.

Images are float32 (N, C, H, W) with values in 0..1. `decoder` ends in logits, so that the cross-entropy stays
exact where the sigmoid saturates; `decode`, `reconstruct` and `forward` apply the sigmoid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import minidl
from minidl import kernels, nn
from minidl.autograd import no_grad
from minidl.models.base import Model, Registered
from minidl.models.config import PretrainedConfig
from minidl.models.encoder import conv_encoder, count, counts, dense_encoder, halved, image_size
from minidl.models.registry import create, register
from minidl.models.resnet import ResNet
from minidl.nn import functional as F
from minidl.tensor import Tensor

__all__ = [
    "UNIT",
    "Autoencoder",
    "ConvAutoencoder",
    "DenseAutoencoder",
    "ResNetAutoencoder",
    "VariationalAutoencoder",
    "deconvolutions",
]

UNIT = PretrainedConfig(mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(3, 32, 32), resize=32, num_classes=0)
"""Preprocessing of the autoencoders: pixels in 0..1, so that a sigmoid can give them back."""


class Autoencoder(Registered):
    """An encoder that maps images to codes, and a decoder that maps codes back to images.

    Args:
        input_size: (C, H, W) of the images; reconstructions have exactly this shape.
        loss: "bce", the cross-entropy between pixels in 0..1 and reconstruction, or "mse".
        noise: standard deviation of Gaussian noise that is added to the encoder's input while training.
        mask: largest share of that input's pixels that is set to 0 while training; the share of each image
            is drawn from 0..mask, so that clean images remain among what the network knows. With noise or
            mask the network learns to restore the clean image: a denoising autoencoder.

    Subclasses set `encoder` and `decoder` and then call `_check_shapes`.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self, input_size: Sequence[int], loss: str = "bce", noise: float = 0.0, mask: float = 0.0
    ) -> None:
        super().__init__()
        if loss not in ("bce", "mse"):
            raise ValueError(f"{type(self).__name__}: loss must be bce or mse, got {loss!r}")
        for name, value, high in (("noise", noise, math.inf), ("mask", mask, 1.0)):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= high
                or value == math.inf
            ):
                raise ValueError(f"{type(self).__name__}: {name} must lie in 0..{high:g}, got {value!r}")
        self.input_size = image_size(type(self).__name__, input_size)
        self.criterion, self.noise, self.mask = loss, float(noise), float(mask)
        self.options = {}
        self.pretrained_cfg = UNIT.with_input(self.input_size)

    def _check_shapes(self) -> None:
        """Runs an empty image through the network, on the reference kernels, which need no compiler."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        with no_grad(), kernels.use("reference"):
            shape = self.reconstruct(Tensor(np.zeros((1, *self.input_size), np.float32))).shape
        for module, training in modes:
            module.training = training
        if shape != (1, *self.input_size):
            raise ValueError(
                f"{type(self).__name__}: images {self.input_size} come back as {shape[1:]}; the decoder does not "
                "fit the encoder"
            )

    def encode(self, x: Tensor) -> Tensor:
        """The codes of images (N, C, H, W): (N, latent), or (N, channels, h, w) without a dense bottleneck."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor) -> Tensor:
        """The images (N, C, H, W) of codes, in 0..1."""
        return F.sigmoid(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """What comes back of images (N, C, H, W), in 0..1, in the same shape."""
        return self.decode(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.reconstruct(x)

    def corrupt(self, x: Tensor) -> Tensor:
        """The encoder's input: while training, `x` with noise or missing pixels; otherwise `x` itself."""
        if not self.training:
            return x
        if self.noise:
            x = x + self.noise * minidl.randn_like(x)
        if self.mask:
            share = self.mask * minidl.rand(x.shape[0], 1, 1, 1)
            kept = minidl.rand(x.shape[0], 1, *x.shape[2:]) >= share  # all channels of a pixel or none
            x = x * kept.to(x.dtype).to(x.device)
        return x

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """What is minimised, "loss", and its parts, as means over images and pixels (bce: nats per value).

        The reconstruction is measured against the clean `x`.
        """
        reconstruction = self._difference(self.decoder(self.encode(self.corrupt(x))), x)
        return {"loss": reconstruction}

    def _difference(self, logits: Tensor, x: Tensor) -> Tensor:
        if self.criterion == "mse":
            return F.mse_loss(F.sigmoid(logits), x)
        return F.binary_cross_entropy_with_logits(logits, x)

    def classifier(self, num_classes: int) -> Model:
        """A classifier of these images: a copy of the encoder under a new, untrained head."""
        name, options = self._classifier_options()
        model = create(
            name,
            num_classes,
            in_channels=self.input_size[0],
            pretrained_cfg=self.pretrained_cfg.replace(num_classes=num_classes),
            **options,
        )
        head = {f"{model.classifier_name}.{n}": a for n, a in model.classifier.state_dict().items()}
        model.load_state_dict({**self._encoder_state(), **head})
        return model.train(self.training)

    def _classifier_options(self) -> tuple[str, dict[str, Any]]:
        """The arguments of `create` for the classifier with this encoder."""
        raise NotImplementedError(f"{type(self).__name__} does not define a classifier")

    def _encoder_state(self) -> dict[str, np.ndarray]:
        """The encoder's arrays under the classifier's names."""
        return {f"encoder.{name}": array for name, array in self.encoder.state_dict().items()}


class DenseAutoencoder(Autoencoder):
    """Fully connected layers: the pixels, `widths` with ReLU, `latent` numbers, and back the same way.

    Other arguments: see Autoencoder.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        widths: Sequence[int] = (512, 256),
        latent: int = 64,
        loss: str = "bce",
        noise: float = 0.0,
        mask: float = 0.0,
    ) -> None:
        super().__init__(input_size, loss, noise, mask)
        self.widths, self.latent = counts("DenseAutoencoder", "widths", widths), latent
        self.encoder = dense_encoder(self.input_size, self.widths, latent)
        sizes = [latent, *reversed(self.widths), math.prod(self.input_size)]
        self.decoder = nn.Sequential()
        for before, after in itertools.pairwise(sizes):
            self.decoder.append(nn.Linear(before, after)).append(nn.ReLU())
        self.decoder[-1] = nn.Unflatten(1, self.input_size)
        self._check_shapes()

    def _classifier_options(self) -> tuple[str, dict[str, Any]]:
        return "dense_encoder", {"widths": list(self.widths), "latent": self.latent}


class ConvAutoencoder(Autoencoder):
    """Strided convolutions down, transposed convolutions of stride 2 up.

    Args:
        channels: outputs of the encoder's 3x3 convolutions, each of which halves height and width (an odd
            size is rounded up; the decoder's `output_padding` takes that back, for every input size).
        latent: numbers of a dense bottleneck; None keeps the last convolution's output as the code.
        batch_norm: normalises after every convolution but the last.

    Other arguments: see Autoencoder.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        channels: Sequence[int] = (32, 64),
        latent: int | None = None,
        batch_norm: bool = False,
        loss: str = "bce",
        noise: float = 0.0,
        mask: float = 0.0,
    ) -> None:
        super().__init__(input_size, loss, noise, mask)
        self.channels = counts("ConvAutoencoder", "channels", channels)
        self.latent = latent if latent is None else count("ConvAutoencoder", "latent", latent)
        self.batch_norm = batch_norm
        self.encoder, sizes = conv_encoder(self.input_size, self.channels, batch_norm, latent)
        self.decoder = nn.Sequential()
        if latent is not None:
            inner = (self.channels[-1], *sizes[-1])
            self.decoder.extend([nn.Linear(latent, math.prod(inner)), nn.ReLU(), nn.Unflatten(1, inner)])
        self.decoder.extend(deconvolutions([self.input_size[0], *self.channels], sizes, batch_norm))
        self._check_shapes()

    def _classifier_options(self) -> tuple[str, dict[str, Any]]:
        options = {"channels": list(self.channels), "latent": self.latent, "batch_norm": self.batch_norm}
        return "conv_encoder", options


class VariationalAutoencoder(Autoencoder):
    """A convolutional autoencoder of a distribution: the code of an image is a Gaussian q(z|x), and the
    decoder gives p(x|z).

    Minimised is the negative evidence lower bound of Kingma and Welling (2014, eq. 10), with the second term
    weighted by beta, divided by the number of values of an image:

        -E_q[log p(x|z)] + beta * KL(q(z|x) || N(0, 1)),     z = mean + exp(log_variance / 2) * e, e ~ N(0, 1)
        KL = -1/2 * sum(1 + log_variance - mean^2 - exp(log_variance))

    Args:
        channels: of the convolutions, as for ConvAutoencoder.
        hidden: width of the dense layer between the convolutions and the code's mean and log variance.
        latent: length of the code.
        beta: weight of the divergence.

    `encoder` ends before `to_mean` and `to_log_variance`; `encode` gives the mean. Other arguments: see
    Autoencoder.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
        latent: int = 16,
        beta: float = 1.0,
        loss: str = "bce",
        noise: float = 0.0,
        mask: float = 0.0,
    ) -> None:
        super().__init__(input_size, loss, noise, mask)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta < math.inf:
            raise ValueError(f"VariationalAutoencoder: beta must be at least 0, got {beta!r}")
        self.channels, self.beta = counts("VariationalAutoencoder", "channels", channels), float(beta)
        self.hidden = count("VariationalAutoencoder", "hidden", hidden)
        self.latent = count("VariationalAutoencoder", "latent", latent)
        self.encoder, sizes = conv_encoder(self.input_size, self.channels, hidden=hidden)
        inner = (self.channels[-1], *sizes[-1])
        self.to_mean, self.to_log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            *(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(inner)), nn.ReLU()),
            nn.Unflatten(1, inner),
        )
        self.decoder.extend(deconvolutions([self.input_size[0], *self.channels], sizes))
        self._check_shapes()

    def encode(self, x: Tensor) -> Tensor:
        """The means (N, latent) of q(z|x)."""
        mean: Tensor = self.to_mean(self.encoder(x))
        return mean

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), both (N, latent)."""
        features = self.encoder(x)
        return self.to_mean(features), self.to_log_variance(features)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """The bound "loss" and its two terms "reconstruction" and "kl" (before beta), each per value of an
        image.
        """
        mean, log_variance = self.distribution(self.corrupt(x))
        z = reparametrised(mean, log_variance, minidl.randn_like(mean))
        reconstruction = self._difference(self.decoder(z), x)
        kl = gaussian_divergence(mean, log_variance) / math.prod(self.input_size)
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}

    def sample(self, count: int) -> Tensor:
        """New images (count, C, H, W) of codes drawn from N(0, 1)."""
        with no_grad():
            return self.decode(minidl.randn(count, self.latent, device=self.to_mean.weight.device))

    def _classifier_options(self) -> tuple[str, dict[str, Any]]:
        return "conv_encoder", {"channels": list(self.channels), "hidden": self.hidden}


class ResNetAutoencoder(Autoencoder):
    """A ResNet without its classifier, and transposed convolutions back from its last feature map.

    Args:
        trunk: the registered name of a ResNet ("resnet20"); `trunk_options` change its options.
        width: channels of the decoder at half of the input's resolution; they double with every step down,
            up to the ResNet's.

    The encoder keeps the ResNet's parameter names, so `classifier` is that ResNet. Other arguments: see
    Autoencoder.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        trunk: str = "resnet20",
        trunk_options: Mapping[str, Any] | None = None,
        width: int = 32,
        loss: str = "bce",
        noise: float = 0.0,
        mask: float = 0.0,
    ) -> None:
        super().__init__(input_size, loss, noise, mask)
        self.trunk, self.trunk_options = trunk, dict(trunk_options or {})
        width = count("ResNetAutoencoder", "width", width)
        network = create(trunk, num_classes=0, in_channels=self.input_size[0], **self.trunk_options)
        if not isinstance(network, ResNet):
            raise ValueError(f"ResNetAutoencoder: trunk must be a ResNet, got {trunk!r}")
        self.encoder = network
        with no_grad(), kernels.use("reference"):
            network.eval()
            image = Tensor(np.zeros((1, *self.input_size), np.float32))
            features = network.forward_features(image).shape
            network.train()
        stages = [name for name, _ in network.layer_groups() if name.startswith("layer")]
        steps = len(stages) - 1 + (0 if isinstance(network.maxpool, nn.Identity) else 2)
        if not steps:
            raise ValueError(f"ResNetAutoencoder: {trunk} needs two stages at least, it has {len(stages)}")
        sizes = halved(self.input_size[1:], steps)
        if sizes[-1] != features[2:]:
            raise ValueError(
                f"ResNetAutoencoder: {trunk} turns {self.input_size} into features of {features[2:]}, which "
                f"doubling does not lead back from; its max-pooling must be padded"
            )
        between = [min(width * 2**step, features[1]) for step in range(steps - 1)]
        self.decoder = deconvolutions([self.input_size[0], *between, features[1]], sizes, batch_norm=True)
        self._check_shapes()

    def encode(self, x: Tensor) -> Tensor:
        """The ResNet's feature maps (N, channels, h, w)."""
        assert isinstance(self.encoder, ResNet)
        return self.encoder.forward_features(x)

    def _classifier_options(self) -> tuple[str, dict[str, Any]]:
        return self.trunk, self.trunk_options

    def _encoder_state(self) -> dict[str, np.ndarray]:
        return dict(self.encoder.state_dict())


def deconvolutions(
    channels: Sequence[int], sizes: Sequence[tuple[int, int]], batch_norm: bool = False
) -> nn.Sequential:
    """Transposed 3x3 convolutions of stride 2 with ReLU between, from the last of `sizes` up to the first.

    `channels` are those of the image and of each size below it. Of a size n that became (n + 1) // 2, padding 1
    gives back 2 * ((n + 1) // 2) - 1: one too few for an even n, which `output_padding` adds.
    """
    layers = nn.Sequential()
    for level in range(len(sizes) - 1, 0, -1):
        extra = tuple((n + 1) % 2 for n in sizes[level - 1])
        inner = level > 1
        layers.append(
            nn.ConvTranspose2d(
                channels[level],
                channels[level - 1],
                3,
                stride=2,
                padding=1,
                output_padding=(extra[0], extra[1]),
                bias=not (inner and batch_norm),
            )
        )
        if inner:
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels[level - 1]))
            layers.append(nn.ReLU())
    return layers


def reparametrised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Draws of N(mean, exp(log_variance)) through which gradients flow: mean + exp(log_variance / 2) * noise."""
    return mean + minidl.exp(0.5 * log_variance) * noise


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, summed over the code (N, D), averaged over images."""
    terms = 1.0 + log_variance - mean * mean - minidl.exp(log_variance)
    return -0.5 * terms.sum() / mean.shape[0]


for _name, _builder, _text, _options in (
    ("dense_autoencoder", DenseAutoencoder, "Fully connected autoencoder", {}),
    ("conv_autoencoder", ConvAutoencoder, "Convolutional autoencoder, stride-2 convolutions 32-64", {}),
    (
        "denoising_autoencoder",
        ConvAutoencoder,
        "The same, restoring images from Gaussian noise",
        {"noise": 0.3},
    ),
    (
        "variational_autoencoder",
        VariationalAutoencoder,
        "Convolutional variational autoencoder (beta-VAE)",
        {},
    ),
    (
        "resnet_autoencoder",
        ResNetAutoencoder,
        "A ResNet-20 trunk and a decoder of transposed convolutions",
        {},
    ),
):
    register(_name, UNIT, _text, "autoencoder", **_options)(_builder)
