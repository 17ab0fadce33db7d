"""Batches of a data set, prepared ahead by threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.cache import DEFAULT_CACHE_BYTES, ImageCache
from minidl.data.color import ToArray
from minidl.data.dataset import Dataset
from minidl.data.files import reason
from minidl.data.transforms import Compose
from minidl.errors import MinidlError
from minidl.kernels import capturing, devices

if TYPE_CHECKING:
    from minidl.tensor import Tensor

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
_ORDER_STREAM = 1  # counter word 2 of the generator that shuffles; the samples' generators have 0 there


class SampleRng:
    """One generator that is set to the stream of any (seed, epoch, index) in under a microsecond.

    Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) numbers its outputs by a
    256-bit counter: the key is (seed, epoch), the counter's highest word the index, so streams of different
    samples never meet.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = np.random.Philox(key=[seed % 2**64, epoch])
        self._state: Any = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, index: int, stream: int = 0) -> np.random.Generator:
        """The generator at the start of its stream; it stays valid until the next call."""
        counter = self._state["state"]["counter"]
        counter[0] = counter[1] = 0
        counter[2], counter[3] = stream, index
        self._bits.state = self._state
        return self._generator


class DataLoader:
    """Iterates over a data set in batches `(images, labels)`.

    `images` is a Tensor over a float32 array (N, C, H, W) that is channels-last in memory, `labels` an
    int64 array (N,), a tensor where the `device` is not the CPU. The order and every random transform depend on
    (seed, epoch, index) alone: they are the same for any `num_workers`.

    Args:
        dataset: a `Dataset`, or anything with `__len__` and `__getitem__(i) -> (image, label)`.
        batch_size: samples per batch; the last batch may be smaller unless `drop_last`.
        shuffle: a new order each epoch.
        transform: `(image, rng) -> float32 (C, H, W)`, the same shape for all samples. Default: `ToArray()`.
        num_workers: threads that decode and transform; 0 does it in the calling thread. Threads, because
            Pillow and the
            kernels release the interpreter lock, and because a fork would break thread pools.
        seed: of the order and of the transforms.
        prefetch: batches prepared ahead per worker.
        device: copy the batches to this device ("cuda"), one ahead of the one that is used, through pinned memory and
            beside what runs there. Images and labels are then tensors of the device.
        cache: keep the images after decoding and the leading transforms that are not random
            (`Compose.divide`), as
            uint8, up to this many bytes (True: 1 GiB). What does not fit is decoded each time: the batches
            are the same.

    Unlike PyTorch's, a loader that was iterated to its end goes on to the next epoch by itself, so that a
    plain loop does not repeat one order and one set of augmentations; `set_epoch` chooses an epoch
    explicitly, as resuming needs.

    An error while a sample is made is raised by the iteration, at that batch, as a MinidlError with the
    sample's name. Leaving an iteration early cancels what it had prepared. Several iterations may run at
    the same time.
    """

    def __init__(
        self,
        dataset: Dataset | Any,
        batch_size: int,
        shuffle: bool = False,
        transform: Callable[..., Any] | None = None,
        num_workers: int = 2,
        drop_last: bool = False,
        seed: int = 0,
        prefetch: int = 2,
        cache: bool | int = False,
        device: str | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch", prefetch, 1),
            ("cache", int(cache), 0),
        ):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"DataLoader: {name} must be an integer of at least {least}, got {value!r}")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.transform: Callable[..., Any] = ToArray() if transform is None else transform
        self.num_workers = int(num_workers)
        self.drop_last = drop_last
        self.seed = int(seed)
        self.prefetch = int(prefetch)
        self._place = devices.place(device or "cpu")
        self.epoch = 0
        self._read: Callable[[int], tuple[Any, int]] = dataset.__getitem__
        self._finish = self.transform
        if cache:
            fixed, rest = Compose([self.transform]).divide()
            if isinstance(self.transform, Compose):
                fixed, rest = self.transform.divide()
            self._read = ImageCache(dataset, fixed, DEFAULT_CACHE_BYTES if cache is True else int(cache))
            self._finish = rest

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        count = len(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration, from 0."""
        if epoch < 0:
            raise ValueError(f"DataLoader: epoch must be at least 0, got {epoch}")
        self.epoch = int(epoch)

    def order(self, epoch: int | None = None) -> NDArray[np.int64]:
        """The sample indices of an epoch (default: the next one) in the order in which they come."""
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count, dtype=np.int64)
        rng = SampleRng(self.seed, self.epoch if epoch is None else epoch)(0, _ORDER_STREAM)
        return rng.permutation(count).astype(np.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return self.iterate()

    def iterate(self, start: int = 0) -> Generator[tuple[Tensor, Any], None, None]:
        """The current epoch's batches from number `start` on; those before are skipped, not made."""
        from minidl.tensor import Tensor

        epoch = self.epoch
        with closing(self._arrays(epoch, start)) as arrays:
            if self._place.name == "cpu":
                for images, labels in arrays:
                    yield Tensor(images), labels
            else:
                for images, labels in self._received(arrays):
                    yield Tensor(images), Tensor(labels)
        self.epoch = epoch + 1

    def _received(self, batches: Iterator[Batch]) -> Iterator[tuple[Any, Any]]:
        """The batches on the device; while one is used, the next is on its way. An error of the next comes after it."""
        under_way: list[Callable[[], Any]] | None = None
        while True:
            capturing.refuse("a batch taken from a DataLoader", "pass the batch to the step")
            try:
                batch = next(batches, None)
                following = None if batch is None else [self._place.send(array) for array in batch]
                del batch
            except Exception:
                if under_way is not None:
                    yield under_way[0](), under_way[1]()
                raise
            if under_way is not None:
                yield under_way[0](), under_way[1]()
            if following is None:
                return
            under_way = following

    def _arrays(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        order = self.order(epoch)
        size = self.batch_size
        batches = [order[number * size : (number + 1) * size] for number in range(start, len(self))]
        stop = threading.Event()
        if self.num_workers == 0 or not batches:
            for indices in batches:
                yield self._make(indices, epoch, stop)
            return

        from concurrent.futures import Future, ThreadPoolExecutor, wait

        pool = ThreadPoolExecutor(min(self.num_workers, len(batches)), "minidl-data")
        ahead: deque[Future[Batch]] = deque()
        pending = iter(batches)
        try:
            for indices in pending:
                ahead.append(pool.submit(self._make, indices, epoch, stop))
                if len(ahead) >= self.num_workers * self.prefetch:
                    break
            while ahead:
                # With a limit, because a wait without one cannot be interrupted from the keyboard on Windows.
                while not wait((ahead[0],), timeout=0.5).done:
                    pass
                batch = ahead.popleft().result()
                if (following := next(pending, None)) is not None:
                    ahead.append(pool.submit(self._make, following, epoch, stop))
                yield batch
                del batch
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, indices: NDArray[np.int64], epoch: int, stop: threading.Event) -> Batch:
        rng = SampleRng(self.seed, epoch)
        labels = self._place.staging((len(indices),), np.int64)
        memory = np.zeros((0, 0, 0, 0), np.float32)
        for slot, index in enumerate(indices.tolist()):
            if stop.is_set():
                break
            try:
                image, label = self._read(index)
                pixels = _checked(self._finish(image, rng(index)))
                labels[slot] = label
                if slot == 0:
                    channels, height, width = pixels.shape
                    memory = self._place.staging((len(indices), height, width, channels), np.float32)
                elif pixels.shape != (memory.shape[3], *memory.shape[1:3]):
                    first = (memory.shape[3], *memory.shape[1:3])
                    raise ValueError(
                        f"shape {pixels.shape} in a batch of {first}: the transform must give one shape"
                    )
                memory[slot] = pixels.transpose(1, 2, 0)
            except Exception as error:
                raise self._named(index, error) from error
        return memory.transpose(0, 3, 1, 2), labels

    def _named(self, index: int, error: Exception) -> Exception:
        if isinstance(error, MemoryError):
            return error
        name = self.dataset.name(index) if hasattr(self.dataset, "name") else f"sample {index}"
        if isinstance(error, MinidlError):
            return error if name in str(error) else MinidlError(f"{name}: {error}")
        return MinidlError(f"{name}: {type(error).__name__}: {reason(error)}")

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"num_workers={self.num_workers}, drop_last={self.drop_last}, seed={self.seed})"
        )


def _checked(pixels: Any) -> NDArray[np.float32]:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.float32 or pixels.ndim != 3:
        came = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise TypeError(
            f"the transform must end in ToArray or Normalize, giving float32 (C, H, W); it gave {came}"
        )
    return pixels
