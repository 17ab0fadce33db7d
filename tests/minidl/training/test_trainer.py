"""The loop: the right epoch is best, figures are means over samples, schedules and freezing act as told."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import models, nn, optim
from minidl.training import DivergedError, EpochRow, Reporter, Settings, Trainer, evaluate, freeze
from minidl.training.features import FeatureLoader, compute_features
from minidl.training.finetune import make_optimizer, make_schedule
from tests.minidl.training.tiny import OPTIONS


def points(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of points in the plane, float32 (N, 2), and which cloud each belongs to."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return (rng.standard_normal((count, 2)) * 0.3 + labels[:, None] * 2 - 1).astype(np.float32), labels


def make_trainer(lr: float = 0.1, **options: object) -> Trainer:
    minidl.manual_seed(0)
    model = nn.Linear(2, 2)
    train = FeatureLoader(*points(20), 8, shuffle=True)
    val = FeatureLoader(*points(10, 1), 8)
    return Trainer(model, optim.SGD(model.parameters(), lr), train, val, ["left", "right"], **options)


def test_two_clouds_are_told_apart() -> None:
    history = make_trainer().fit(5)
    assert [row.epoch for row in history] == [1, 2, 3, 4, 5]
    assert history[-1].val_accuracy == 1.0
    assert history[-1].train_loss < history[0].train_loss


def test_training_loss_is_the_mean_over_samples_not_over_batches() -> None:
    trainer = make_trainer(lr=0.0)
    row = trainer.fit(1)[0]
    assert isinstance(trainer.train_loader, FeatureLoader)
    whole = evaluate(trainer.model, trainer.train_loader, ["left", "right"])
    assert row.train_loss == pytest.approx(whole.loss, rel=1e-5)
    assert row.train_accuracy == whole.accuracy


def test_fit_continues_from_where_it_is() -> None:
    whole, parts = make_trainer(), make_trainer()
    whole.fit(4)
    parts.fit(1)
    assert len(parts.fit(4)) == 4
    for name, array in whole.model.state_dict().items():
        assert array.tobytes() == parts.model.state_dict()[name].tobytes()


def test_the_best_epoch_is_the_most_accurate_then_the_one_with_less_loss() -> None:
    seen: list[tuple[EpochRow, bool]] = []
    trainer = make_trainer(lr=0.01, on_epoch=lambda trainer, row, best: seen.append((row, best)))
    trainer.fit(6)
    best = (-1.0, 0.0)
    for row, better in seen:
        assert row.val_accuracy is not None and row.val_loss is not None
        rank = (row.val_accuracy, -row.val_loss)
        assert better == (rank > best)
        best = max(best, rank)


def test_without_validation_every_epoch_is_the_best() -> None:
    trainer = make_trainer()
    trainer.val_loader = None
    assert all(row.val_loss is None for row in trainer.fit(2))
    assert trainer.best is not None and trainer.best.epoch == 2


def test_a_loss_that_is_not_finite_stops_training() -> None:
    trainer = make_trainer()
    trainer.fit(1)
    weight = next(iter(trainer.model.parameters()))
    weight.data[...] = np.nan
    with pytest.raises(
        DivergedError, match=r"training loss became nan in epoch 2, step 1, at learning rate 0\.1"
    ):
        trainer.fit(2)
    assert len(trainer.history) == 1


def test_an_empty_loader_is_refused() -> None:
    model = nn.Linear(2, 2)
    empty = FeatureLoader(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 8)
    with pytest.raises(ValueError, match="no batches"):
        Trainer(model, optim.SGD(model.parameters(), 0.1), empty, None, ["a", "b"])


def test_evaluation_restores_the_mode_and_moves_no_statistics() -> None:
    model = models.create("resnet20", num_classes=2, **OPTIONS).train()
    before = model.state_dict()
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    evaluate(model, FeatureLoader(images, np.array([0, 1, 0, 1, 0]), 2), ["a", "b"])
    assert model.training
    assert all(array.tobytes() == before[name].tobytes() for name, array in model.state_dict().items())


def test_kept_features_give_the_logits_of_the_whole_network() -> None:
    model = models.create("resnet20", num_classes=3, **OPTIONS).eval()
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    loader = FeatureLoader(images, np.arange(5) % 3, 2)
    rows, labels = compute_features(model, "linear", loader, Reporter(), "features")
    assert rows.shape == (5, 8) and labels.tolist() == [0, 1, 2, 0, 1]
    with minidl.no_grad():
        expected = model(minidl.Tensor(images)).numpy()
        assert np.allclose(model.linear(minidl.Tensor(rows)).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not model.linear._forward_hooks


@pytest.mark.parametrize(
    ("mode", "trained"),
    [
        ("none", ("conv", "bn", "layer", "linear")),
        ("trunk", ("linear",)),
        ("until:layer2", ("layer3", "linear")),
    ],
)
def test_freezing_decides_what_is_trained(mode: str, trained: tuple[str, ...]) -> None:
    model = models.create("resnet20", **OPTIONS)
    said = freeze(model, mode, "linear")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(trained), name
    count = sum(p.size for p in model.parameters() if p.requires_grad)
    assert f"{count:,} of" in said


def test_frozen_batch_norms_stay_in_evaluation_mode() -> None:
    model = models.create("resnet20", **OPTIONS)
    freeze(model, "bn", "linear")
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert model.conv1.weight.requires_grad and not model.bn1.weight.requires_grad


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    model = models.create("resnet20", **OPTIONS)
    with pytest.raises(ValueError, match=r"no part 'layr2'; did you mean layer2\?"):
        freeze(model, "until:layr2", "linear")
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(model, "until:linear", "linear")


def test_norms_and_biases_have_no_weight_decay_and_early_layers_smaller_rates() -> None:
    model = models.create("resnet20", **OPTIONS)
    settings = Settings("resnet20", lr=0.1, weight_decay=0.01, layer_decay=0.5)
    optimizer = make_optimizer(settings, model)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.01), name
    assert group_of[id(model.linear.weight)]["lr"] == 0.1
    assert group_of[id(model.conv1.weight)]["lr"] == pytest.approx(0.1 * 0.5**4)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "step", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_every_schedule_stays_within_the_learning_rate(schedule: str, steps: int) -> None:
    settings = Settings("resnet20", lr=0.1, schedule=schedule)
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(settings, model)
    scheduler = make_schedule(settings, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        if scheduler is not None:
            scheduler.step()
    assert 0 < max(rates) <= 0.1 + 1e-12
    assert min(rates) >= 0
    if steps == 40:
        assert max(rates) > 0.09


def test_settings_fill_in_what_depends_on_others() -> None:
    assert Settings("m").epochs == 10
    head = Settings("m", freeze="trunk")
    assert (head.augment, head.epochs, head.trains_on_features) == ("none", 100, True)
    assert Settings("m", freeze="trunk", augment="light").epochs == 10
    assert Settings("m", optimizer="adamw").lr == 1e-3
    assert Settings(**head.to_dict()) == head


WRONG_SETTINGS: list[dict[str, object]] = [
    *(
        {"epochs": 0},
        {"lr": float("nan")},
        {"lr": -1.0},
        {"momentum": 2.0},
        {"seed": -1},
        {"schedule": "linear"},
    ),
    *(
        {"augment": "full"},
        {"freeze": "until:"},
        {"layer_decay": 0.0},
        {"val_split": 1.0},
        {"optimizer": "lion"},
    ),
]


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_wrong_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings("m", **wrong)  # type: ignore[arg-type]
