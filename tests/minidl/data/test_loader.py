from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl
from minidl.data import ArrayDataset, DataLoader, Dataset, ImageFolder
from minidl.data.color import Normalize, ToArray
from minidl.data.loader import SampleRng
from minidl.data.transforms import (
    CenterCrop,
    Compose,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from minidl.errors import MinidlError


def dataset(count: int = 50, size: int = 8) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return ArrayDataset(images, np.arange(count) % 7, list("abcdefg"))


AUGMENT = Compose([RandomCrop(8, padding=2), RandomHorizontalFlip(), Normalize((0.5,) * 3, (0.25,) * 3)])


def collect(loader: DataLoader) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images.numpy().copy(), labels) for images, labels in loader]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) and np.array_equal(c, d) for (a, c), (b, d) in zip(one, other, strict=True)
    )


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("minidl-data")]


def wait_until(condition: Callable[[], bool]) -> bool:
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


class Watched(Dataset):
    """Counts what is read, can wait for a signal and can fail."""

    def __init__(self, count: int = 40, fail: dict[int, Exception] | None = None) -> None:
        self.classes = ["a", "b"]
        self.targets = np.zeros(count, np.int64)
        self.read: list[int] = []
        self.fail = fail or {}
        self.gate = threading.Event()
        self.gate.set()

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.gate.wait(10)
        self.read.append(index)
        if index in self.fail:
            raise self.fail[index]
        return np.full((2, 2, 1), index, np.uint8), 0

    def name(self, index: int) -> str:
        return f"photo-{index}.jpg"


def test_a_batch_is_a_float32_tensor_in_channels_last_memory() -> None:
    data = dataset(10)
    (images, labels), (rest, _) = DataLoader(data, 8)
    assert isinstance(images, minidl.Tensor) and images.shape == (8, 3, 8, 8) and images.dtype == np.float32
    assert images.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert np.allclose(images.data.transpose(0, 2, 3, 1), data.images[:8] / 255, atol=1e-7)
    assert rest.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_comes_exactly_once(count: int, drop_last: bool, workers: int) -> None:
    loader = DataLoader(Watched(count), 8, shuffle=True, drop_last=drop_last, num_workers=workers)
    batches = collect(loader)
    assert len(batches) == len(loader) == (count // 8 if drop_last else -(-count // 8))
    seen = sorted(round(value * 255) for images, _ in batches for value in images[:, 0, 0, 0].tolist())
    assert len(seen) == len(set(seen)) == (count // 8 * 8 if drop_last else count)


def test_batches_are_the_same_for_any_number_of_workers_and_any_cache() -> None:
    wanted = collect(DataLoader(dataset(), 8, shuffle=True, transform=AUGMENT, num_workers=0, seed=5))
    for workers in (1, 2, 3, 8):
        for prefetch, cache in ((1, False), (3, True), (2, 8 * 8 * 3 * 20)):
            loader = DataLoader(
                dataset(), 8, True, AUGMENT, num_workers=workers, seed=5, prefetch=prefetch, cache=cache
            )
            assert same(collect(loader), wanted)


def test_a_sample_depends_on_seed_epoch_and_index_only() -> None:
    def by_index(epoch: int, seed: int, **options: Any) -> dict[int, bytes]:
        loader = DataLoader(dataset(), transform=AUGMENT, seed=seed, num_workers=0, **options)
        loader.set_epoch(epoch)
        order = loader.order()
        images = np.concatenate([images for images, _ in collect(loader)])
        return {int(index): image.tobytes() for index, image in zip(order, images, strict=True)}

    plain = by_index(3, 1, batch_size=8)
    assert by_index(3, 1, batch_size=5, shuffle=True) == plain
    for epoch, seed in ((4, 1), (3, 2)):
        other = by_index(epoch, seed, batch_size=8)
        assert sum(other[index] == plain[index] for index in plain) < 10


def test_the_order_changes_with_epoch_and_seed() -> None:
    loader = DataLoader(dataset(), 8, shuffle=True, seed=1)
    orders = [loader.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert DataLoader(dataset(), 4, shuffle=True, seed=1).order(1).tolist() == orders[1]
    assert DataLoader(dataset(), 8, shuffle=True, seed=2).order(1).tolist() != orders[1]
    assert DataLoader(dataset(), 8, seed=-1).order(9).tolist() == list(range(50))


def test_the_epoch_advances_when_an_iteration_ends_and_only_then() -> None:
    loader = DataLoader(dataset(), 8, shuffle=True, transform=AUGMENT)
    first, second = collect(loader), collect(loader)
    assert not same(first, second) and loader.epoch == 2
    loader.set_epoch(0)
    for _ in loader:
        break
    assert loader.epoch == 0 and same(collect(loader), first)
    loader.set_epoch(1)
    assert same(collect(loader), second)


def test_an_iteration_can_begin_in_the_middle_without_reading_what_comes_before() -> None:
    whole = collect(DataLoader(dataset(), 8, shuffle=True, transform=AUGMENT))
    rest = [(images.numpy(), labels) for images, labels in DataLoader(dataset(), 8, True, AUGMENT).iterate(4)]
    assert same(rest, whole[4:])
    data = Watched(40)
    list(DataLoader(data, 8).iterate(start=3))
    assert sorted(data.read) == list(range(24, 40))


def test_several_iterations_run_at_the_same_time() -> None:
    loader = DataLoader(dataset(), 8, shuffle=True, transform=AUGMENT)
    alone = collect(loader)
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))
    assert same([(a.numpy(), b) for (a, b), _ in pairs], alone)
    assert same([(a.numpy(), b) for _, (a, b) in pairs], alone)
    assert loader.epoch == 1


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_bad_file_is_reported_at_its_batch_with_its_name(
    make_folder: Callable[..., Path], workers: int
) -> None:
    root = make_folder("ants", "bees", count=8)
    (root / "bees" / "3.jpg").write_bytes(b"\xff\xd8\xff damaged")
    loader = iter(DataLoader(ImageFolder(root), 4, num_workers=workers))
    next(loader), next(loader)
    with pytest.raises(MinidlError, match=r"bees.3\.jpg: cannot be decoded") as caught:
        next(loader)
    assert str(caught.value).count("3.jpg") == 1
    assert wait_until(lambda: not loader_threads())


def test_any_other_error_gets_the_name_and_kind_and_keeps_its_cause() -> None:
    cause = KeyError("lost")
    data = Watched(fail={9: cause, 20: MinidlError("damaged")})
    with pytest.raises(MinidlError, match=r"^photo-9\.jpg: KeyError: 'lost'$") as caught:
        collect(DataLoader(data, 4))
    assert caught.value.__cause__ is cause
    del data.fail[9]
    with pytest.raises(MinidlError, match=r"^photo-20\.jpg: damaged$"):
        collect(DataLoader(data, 4))
    data.fail[20] = MemoryError()
    with pytest.raises(MemoryError):
        collect(DataLoader(data, 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_that_give_no_batch_are_refused(workers: int) -> None:
    for transform, words in (
        (Resize(4), "must end in ToArray or Normalize, giving float32 .* it gave Image"),
        (lambda image, rng: image, r"it gave uint8 \(8, 8, 3\)"),
        (
            lambda image, rng: ToArray()(image[: 4 + int(image[0, 0, 0]) % 3]),
            "the transform must give one shape",
        ),
    ):
        with pytest.raises(MinidlError, match=words):
            collect(DataLoader(dataset(), 8, transform=transform, num_workers=workers))


def test_look_ahead_is_bounded_and_leaving_early_stops_the_workers() -> None:
    data = Watched(4000)
    loader = iter(DataLoader(data, 4, num_workers=2, prefetch=2))
    next(loader)
    assert wait_until(lambda: len(data.read) == 4 * (1 + 2 * 2))
    time.sleep(0.05)
    assert len(data.read) == 20
    next(loader)
    data.gate.clear()
    loader.close()  # type: ignore[attr-defined]
    seen = len(data.read)
    data.gate.set()
    assert wait_until(lambda: not loader_threads())
    assert len(data.read) <= seen + 2  # what each worker was reading, nothing more


def test_breaking_out_of_a_loop_leaves_no_thread_behind() -> None:
    for _ in range(5):
        for _ in DataLoader(dataset(), 4, transform=AUGMENT, num_workers=3):
            break
    assert wait_until(lambda: not loader_threads())


def test_an_interrupt_while_waiting_ends_the_iteration() -> None:
    data = Watched()
    data.gate.clear()
    timer = threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            collect(DataLoader(data, 4))
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
    data.gate.set()
    assert wait_until(lambda: not loader_threads())
    assert len(data.read) <= 2


def test_the_cache_reads_each_image_once_and_keeps_what_precedes_randomness(
    make_folder: Callable[..., Path],
) -> None:
    class Counting(ImageFolder):
        reads = 0

        def __getitem__(self, index: int) -> Any:
            Counting.reads += 1
            return super().__getitem__(index)

    data = Counting(make_folder("ants", "bees", count=6))
    transform = Compose([Resize(20), CenterCrop(18), RandomHorizontalFlip(), ToArray()])
    loader = DataLoader(data, 5, True, transform, cache=True)
    wanted = next(collect(DataLoader(data, 5, True, transform)) for _ in range(1))
    Counting.reads = 0
    assert same(collect(loader), wanted)
    collect(loader)
    assert Counting.reads == 12
    cache: Any = loader._read
    assert len(cache) == 12 and cache.bytes == 12 * 18 * 18 * 4

    bounded = DataLoader(data, 5, True, transform, cache=5 * 18 * 18 * 4 + 1)
    Counting.reads = 0
    for _ in range(2):
        collect(bounded)
    assert Counting.reads == 12 + 7
    bounded.set_epoch(0)
    assert same(collect(bounded), wanted)


def test_the_cache_keeps_whole_images_before_a_random_crop(make_folder: Callable[..., Path]) -> None:
    data = ImageFolder(make_folder("ants", "bees", count=6))
    transform = Compose([RandomResizedCrop(16), ToArray()])
    loader = DataLoader(data, 5, True, transform, cache=True)
    plain = DataLoader(data, 5, True, transform)
    for _ in range(3):
        assert same(collect(loader), collect(plain))


def test_sample_generators_are_independent_streams() -> None:
    rng = SampleRng(7, 2)
    draws = np.array([rng(index).random(50) for index in range(200)])
    assert np.array_equal(rng(17).random(50), draws[17])
    assert np.array_equal(SampleRng(7, 2)(17).random(50), draws[17])
    assert len(np.unique(draws)) == draws.size
    correlation = np.corrcoef(draws) - np.eye(200)
    assert np.abs(correlation).max() < 0.7 and abs(draws.mean() - 0.5) < 0.01
    for other in (SampleRng(8, 2), SampleRng(7, 3)):
        assert not np.isin(other(17).random(50), draws).any()
    generator = rng(3)
    generator.integers(0, 5, dtype=np.int32)  # leaves half a word behind
    assert np.array_equal(rng(17).random(50), draws[17])


def test_plain_sequences_work_as_datasets() -> None:
    data = [(np.full((4, 4, 3), number, np.uint8), number) for number in range(5)]
    batches = collect(DataLoader(data, 2))
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
    data[3] = (np.zeros((4, 4)), 3)  # type: ignore[assignment]
    with pytest.raises(MinidlError, match="sample 3: ValueError: transform: an array image must be"):
        collect(DataLoader(data, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"num_workers": -1}, "num_workers must be an integer of at least 0, got -1"),
        ({"prefetch": 0}, "prefetch must be"),
        ({"cache": -1}, "cache must be"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataLoader(dataset(), **{"batch_size": 4, **options})
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        DataLoader(dataset(), 4).set_epoch(-1)


def test_real_photos_come_the_same_with_any_number_of_workers(real_data: Path) -> None:
    from minidl.data import Subset, train_transform

    data = Subset(ImageFolder(real_data / "images" / "hymenoptera" / "train"), np.arange(0, 245, 12))
    cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 96, 96), "resize": 110}
    batches = [
        collect(DataLoader(data, 8, True, train_transform(cfg, "strong"), num_workers=workers))
        for workers in (0, 3)
    ]
    assert same(*batches) and batches[0][0][0].shape == (8, 3, 96, 96)
