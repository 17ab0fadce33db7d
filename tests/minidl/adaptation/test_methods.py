"""Each method against PyTorch's numbers or a closed form on a small case."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl.adaptation import (
    AdaptSettings,
    Both,
    DeepCoral,
    DomainAdversary,
    GradientReversal,
    InformationMaximisation,
    MaximumMeanDiscrepancy,
    SelfTraining,
    adapt_batch_norms,
    coral_loss,
    covariance,
    information_loss,
    mix_domains,
    mmd_loss,
    pseudo_labels,
    reversal_strength,
    reverse_gradient,
    update_average,
)
from minidl.adaptation.clouds import embed, principal_components

FIXTURES = np.load(Path(__file__).parents[2] / "fixtures" / "adaptation.npz")


def leaf(name: str) -> Tensor:
    return Tensor(FIXTURES[name], requires_grad=True)


def gradient(tensor: Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return tensor.grad.numpy()


@pytest.mark.parametrize(("name", "loss"), [("coral", coral_loss), ("mmd", mmd_loss)])
def test_distances_of_features_and_their_gradients_are_pytorchs(
    name: str, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    source, target = leaf("source"), leaf("target")
    value = loss(source, target)
    value.backward()
    assert value.item() == pytest.approx(float(FIXTURES[name]), rel=1e-12)
    np.testing.assert_allclose(gradient(source), FIXTURES[f"{name}.source"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(gradient(target), FIXTURES[f"{name}.target"], rtol=1e-10, atol=1e-14)


def test_information_maximisation_is_pytorchs() -> None:
    logits = leaf("logits")
    value = information_loss(logits)
    value.backward()
    assert value.item() == pytest.approx(float(FIXTURES["information"]), rel=1e-10)
    np.testing.assert_allclose(gradient(logits), FIXTURES["information.logits"], rtol=1e-8)


def test_the_domain_adversary_is_pytorchs_for_features_and_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("minidl.adaptation.adversarial.reversal_strength", lambda progress: 0.37)
    adversary = DomainAdversary(4, hidden=6).double()
    state = {
        n.removeprefix("dann.state."): FIXTURES[n] for n in FIXTURES.files if n.startswith("dann.state.")
    }
    adversary.classifier.load_state_dict(state)
    source, target = leaf("source"), leaf("target")
    value = adversary(Both(source, target, source, target), 0.5)
    value.backward()
    assert value.item() == pytest.approx(float(FIXTURES["dann"]), rel=1e-12)
    np.testing.assert_allclose(gradient(source), FIXTURES["dann.source"], rtol=1e-10)
    np.testing.assert_allclose(gradient(target), FIXTURES["dann.target"], rtol=1e-10)
    for name, parameter in adversary.classifier.named_parameters():
        np.testing.assert_allclose(gradient(parameter), FIXTURES[f"dann.grad.{name}"], rtol=1e-10, atol=1e-14)


class Fixed(nn.Module):
    """A network that answers with the logits it is given."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits * 1.0


def test_the_loss_of_self_training_is_pytorchs() -> None:
    strong = leaf("strong")
    training = SelfTraining(Fixed(FIXTURES["logits"]), threshold=0.7)
    value = training(minidl.zeros(5, 1), strong)
    value.backward()
    assert value.item() == pytest.approx(float(FIXTURES["self"]), rel=1e-12)
    np.testing.assert_allclose(gradient(strong), FIXTURES["self.strong"], rtol=1e-10)


def test_the_covariance_is_numpys_even_far_from_the_origin() -> None:
    x = np.random.default_rng(0).standard_normal((9, 3)) + 1e6
    np.testing.assert_allclose(covariance(Tensor(x)).numpy(), np.cov(x.T), rtol=1e-8)


def test_coral_does_not_see_a_shift_of_the_mean_and_mmd_does() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3))
    assert coral_loss(Tensor(x), Tensor(x + 2.0)).item() == pytest.approx(0.0, abs=1e-20)
    assert mmd_loss(Tensor(x), Tensor(x + 2.0)).item() > 0.1
    assert mmd_loss(Tensor(x), Tensor(x.copy())).item() == pytest.approx(0.0, abs=1e-15)


def test_mmd_of_four_points_is_the_closed_form() -> None:
    source, target = Tensor(np.array([[0.0], [0.0]])), Tensor(np.array([[1.0], [1.0]]))
    expected = 2.0 - 2.0 * math.exp(-1.0 / 3.0)  # k = 1 within a domain, exp(-1/3) between them
    assert mmd_loss(source, target, scales=(1.0,), bandwidth=3.0).item() == pytest.approx(expected, rel=1e-12)


def test_equal_rows_have_no_distance_and_no_nan() -> None:
    rows = Tensor(np.ones((3, 2), np.float32), requires_grad=True)
    value = mmd_loss(rows, Tensor(np.ones((2, 2), np.float32)))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(gradient(rows)).all()


def test_sure_and_varied_predictions_have_the_lowest_information_loss() -> None:
    sure = np.eye(4) * 50.0
    assert information_loss(Tensor(sure)).item() == pytest.approx(-math.log(4), abs=1e-9)
    assert information_loss(Tensor(np.zeros((4, 4)))).item() == pytest.approx(0.0, abs=1e-9)
    assert information_loss(Tensor(np.tile(sure[:1], (4, 1)))).item() == pytest.approx(0.0, abs=1e-9)


def test_a_reversed_gradient_is_exact_to_the_second_order() -> None:
    x = Tensor(np.array([1.0, -2.0]), requires_grad=True)
    y = reverse_gradient(x, 0.5)
    np.testing.assert_array_equal(y.data, x.data)
    (y * y).sum().backward()
    np.testing.assert_allclose(gradient(x), -0.5 * 2.0 * x.data)
    z = Tensor(np.array([3.0]), requires_grad=True)
    (first,) = minidl.grad((reverse_gradient(z, 2.0) ** 3).sum(), z, create_graph=True)
    (second,) = minidl.grad(first.sum(), z)
    assert first.item() == pytest.approx(-2.0 * 27.0)
    assert second.item() == pytest.approx((-2.0) * (-2.0) * 18.0)  # the reversal acts in both passes


def test_strength_zero_lets_no_gradient_through() -> None:
    x = Tensor(np.ones(3), requires_grad=True)
    GradientReversal(0.0)(x).sum().backward()
    assert not gradient(x).any()


def test_the_reversal_rises_by_the_papers_schedule() -> None:
    assert reversal_strength(0.0) == 0.0
    assert reversal_strength(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert 0.999 < reversal_strength(1.0) < 1.0


@pytest.mark.parametrize("alignment", [DeepCoral(), MaximumMeanDiscrepancy(), DomainAdversary(3)])
def test_alignments_name_features_that_do_not_fit(alignment: nn.Module) -> None:
    rows, other, one = minidl.zeros(4, 3), minidl.zeros(4, 2), minidl.zeros(1, 3)
    with pytest.raises(ValueError, match=r"must be \(n, F\) and \(m, F\), got shapes \(4, 3\) and \(4, 2\)"):
        alignment(Both(rows, other, rows, rows), 0.0)
    with pytest.raises(ValueError, match="at least 2 rows of each domain, got 4 and 1"):
        alignment(Both(rows, one, rows, rows), 0.0)
    with pytest.raises(ValueError, match="information_loss"):
        InformationMaximisation()(Both(rows, rows, rows, minidl.zeros(3)), 0.0)


# ---- statistics of batch norms --------------------------------------------------------------------------


def norm_and_images() -> tuple[nn.Sequential, list[Tensor], np.ndarray]:
    rng = np.random.default_rng(1)
    norm = nn.BatchNorm2d(2)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.data[...], norm.running_var.data[...] = [1.0, -1.0], [4.0, 9.0]
    images = rng.standard_normal((12, 2, 5, 5)).astype(np.float32) * 3 + 2
    images[:4] += 5  # batches with means of their own
    return nn.Sequential(norm), [Tensor(images[:4]), Tensor(images[4:])], images


def statistics(model: nn.Sequential) -> tuple[np.ndarray, np.ndarray]:
    state = model.state_dict()
    return state["0.running_mean"], state["0.running_var"]


def test_adabn_takes_the_moments_of_all_target_images() -> None:
    model, batches, images = norm_and_images()
    assert adapt_batch_norms(model, batches) == 1
    mean, var = statistics(model)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), rtol=1e-5)
    # each batch's variance is the unbiased one, as everywhere in a batch norm
    within = [image.numpy().var((0, 2, 3), ddof=1) * len(image.numpy()) for image in batches]
    between = sum(len(b.numpy()) * (b.numpy().mean((0, 2, 3)) - mean) ** 2 for b in batches)
    np.testing.assert_allclose(var, (within[0] + within[1] + between) / 12, rtol=1e-5)


def test_a_prior_mixes_the_source_in() -> None:
    model, batches, images = norm_and_images()
    adapt_batch_norms(model, batches, prior=36.0)
    mean, _ = statistics(model)
    np.testing.assert_allclose(
        mean, (36 * np.array([1.0, -1.0]) + 12 * images.mean((0, 2, 3))) / 48, rtol=1e-5
    )


def test_adabn_leaves_modes_momentum_and_weights_as_they_are() -> None:
    model, batches, _ = norm_and_images()
    model.append(nn.Dropout(0.5))
    model.train()
    model[1].eval()
    weights = model.state_dict()["0.weight"]
    adapt_batch_norms(model, batches)
    assert [m.training for m in model.modules()] == [True, True, False]
    assert model[0].momentum == 0.1
    np.testing.assert_array_equal(model.state_dict()["0.weight"], weights)


def test_adabn_that_fails_leaves_the_statistics_as_they_are() -> None:
    model, _, _ = norm_and_images()
    before = [s.copy() for s in statistics(model)]
    with pytest.raises(ValueError, match="no images"):
        adapt_batch_norms(model, [])
    with pytest.raises(ValueError, match="prior must be at least 0"):
        adapt_batch_norms(model, [], prior=-1)
    with pytest.raises(ValueError, match="no batch norm that keeps statistics"):
        adapt_batch_norms(nn.Linear(2, 2), [])
    for now, then in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


# ---- self-training ----------------------------------------------------------------------------------------


def test_the_running_average_mixes_weights_and_copies_counters() -> None:
    a, b = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    for norm, value in ((a, 1.0), (b, 3.0)):
        state = norm.state_dict()
        norm.load_state_dict({n: np.full_like(v, value) for n, v in state.items()})
    update_average(a, b, 0.75)
    state = a.state_dict()
    assert state["weight"][0] == state["running_var"][0] == 1.5
    assert state["num_batches_tracked"] == 3


def test_the_teacher_follows_quickly_at_first() -> None:
    student = nn.Linear(1, 1)
    training = SelfTraining(student, average=0.99)
    state = student.state_dict()
    student.load_state_dict({n: v + 1.0 for n, v in state.items()})
    training.update(student)  # a = 1 / 10
    np.testing.assert_allclose(training.teacher.state_dict()["bias"], state["bias"] + 0.9, rtol=1e-6)
    assert training.steps.item() == 1


def test_the_teacher_gets_no_gradient() -> None:
    training = SelfTraining(nn.Linear(2, 3))
    assert not any(p.requires_grad for p in training.parameters())


def test_predictions_below_the_threshold_do_not_count() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]))
    labels, sure = pseudo_labels(logits, 0.75)
    assert labels.tolist() == [0, 0, 1] and sure.tolist() == [True, False, True]
    balanced, _ = pseudo_labels(logits, 0.0, np.array([0.9, 0.1]))
    assert balanced.tolist() == [1, 1, 1]


def test_balance_learns_how_often_each_class_is_predicted() -> None:
    logits = np.log(np.tile([[0.9, 0.1]], (6, 1)))
    training = SelfTraining(Fixed(logits), threshold=0.6, balance=True, classes=2)
    for _ in range(200):
        _, sure = training.labels(minidl.zeros(6, 1))
    np.testing.assert_allclose(training.frequency.numpy(), [0.9, 0.1], atol=1e-3)
    assert not sure.any()  # what is always predicted says nothing


def test_no_sure_prediction_is_a_loss_of_zero() -> None:
    strong = Tensor(np.zeros((4, 3)), requires_grad=True)
    value = SelfTraining(Fixed(np.zeros((4, 3))), threshold=0.9)(minidl.zeros(4, 1), strong)
    value.backward()
    assert value.item() == 0.0 and not gradient(strong).any()


# ---- mixing ------------------------------------------------------------------------------------------------


def test_mixed_images_lie_between_a_labelled_image_and_one_of_the_target() -> None:
    rng = np.random.default_rng(0)
    source, target = (
        Tensor(np.ones((50, 1, 2, 2), np.float32)),
        Tensor(np.full((3, 1, 2, 2), 3.0, np.float32)),
    )
    mixed = mix_domains(source, target, rng, share=0.4).numpy()[:, 0, 0, 0]
    assert (mixed >= 1.0).all() and (mixed <= 1.0 + 0.4 * 2.0).all() and mixed.std() > 0.1
    negative = mix_domains(source, target, np.random.default_rng(0), share=0.4, signs=True).numpy()[
        :, 0, 0, 0
    ]
    share = (mixed - 1.0) / 2.0
    flipped = np.isclose(negative, -(1 - share) + share * 3.0, atol=1e-6)
    assert 10 < flipped.sum() < 40  # the others are as before
    np.testing.assert_allclose(negative[~flipped], mixed[~flipped], atol=1e-6)


def test_no_share_leaves_the_images_as_they_are() -> None:
    images = Tensor(np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32))
    mixed = mix_domains(images, minidl.zeros(2, 3, 2, 2), np.random.default_rng(0), share=0.0)
    np.testing.assert_array_equal(mixed.numpy(), images.numpy())


def test_images_of_two_sizes_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="images differ in shape"):
        mix_domains(minidl.zeros(2, 3, 4, 4), minidl.zeros(2, 3, 5, 4), np.random.default_rng(0))
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        mix_domains(minidl.zeros(2, 3, 4, 4), minidl.zeros(2, 3, 4, 4), np.random.default_rng(0), share=2.0)


# ---- settings and pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "cora"}, "method must be one of source, finetune, adabn"),
        ({"statistics": "target"}, "statistics must be source or batch"),
        ({"threshold": 1.5}, "threshold must lie between 0"),
        ({"labels_per_class": 3}, "labels_per_class is for the method finetune"),
        ({"student_augment": "wild"}, "student_augment must be one of"),
        ({"new_classifier": True}, "new_classifier is a setting of fine-tuning"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must lie between 1"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptSettings("resnet20", **given)  # type: ignore[arg-type]


def test_principal_components_find_the_plane_of_the_points() -> None:
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((30, 2)) * [5.0, 2.0]
    axes = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    found = principal_components(plane @ axes.T + 7.0)
    centred = plane - plane.mean(0)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-9)
    assert principal_components(np.ones((3, 1))).shape == (3, 2)


def test_tsne_keeps_two_heaps_apart() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    heaps = rng.standard_normal((20, 5)) + np.repeat([0.0, 50.0], 10)[:, None]
    points = embed(heaps, "tsne")
    assert points.shape == (20, 2)
    assert np.array_equal(points, embed(heaps, "tsne"))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert distances[:10, :10].max() < distances[:10, 10:].min()


def test_an_unknown_embedding_is_named() -> None:
    with pytest.raises(ValueError, match="embedding must be one of pca, tsne, got 'umap'"):
        embed(np.zeros((4, 2)), "umap")
