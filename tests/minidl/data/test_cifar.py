from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl.data import CIFAR10
from minidl.data.pickles import load_dict
from minidl.errors import MinidlError


def batch(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "batch_label": "testing",
        "labels": rng.integers(0, 10, count).tolist(),
        "data": rng.integers(0, 256, (count, 3072)).astype(np.uint8),
        "filenames": [f"picture_{number}.png" for number in range(count)],
    }


def write(folder: Path, name: str, content: Any, protocol: int = 2) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    write(tmp_path, "data_batch_1", batch(5, 1))
    write(tmp_path, "data_batch_2", batch(3, 2))
    write(tmp_path, "data_batch_10", batch(2, 3))
    write(tmp_path, "test_batch", batch(4, 4))
    return tmp_path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_pickles_of_every_binary_protocol_are_read(protocol: int, as_bytes: bool) -> None:
    content: dict[Any, Any] = batch(6)
    content["order"] = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    content["numbers"] = [True, None, -5, 300, 70000, 2**40, 1.5, (), (1,), (1, 2, 3, 4)]
    if as_bytes:
        content = {key.encode(): value for key, value in content.items()}
    found = load_dict(pickle.dumps(content, protocol=protocol), "x")
    plain = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(found[key], value) and found[key].shape == value.shape
        else:
            assert found[key] == value


def test_a_batch_written_by_python_2_is_read() -> None:
    # {'labels': [3], 'data': array([[1, 2]], dtype=uint8)} as written by Python 2.7 with NumPy 1.16, protocol 2.
    data = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x03aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01"
        b"\x87Rq\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbu."
    )
    found = load_dict(data, "x")
    assert found["labels"] == [3] and found["data"].tolist() == [[1, 2]] and found["data"].dtype == np.uint8


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_a_function_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, protocol: int
) -> None:
    import os

    mark = tmp_path / "executed"
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), "system"),
        (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
        (np.load, (str(mark),), "load"),
        (bytearray, (2**40,), "bytearray"),
    ):
        folder = tmp_path / name
        write(folder, "test_batch", {"labels": [], "data": Evil(function, *arguments)}, protocol)
        with pytest.raises(MinidlError, match=rf"test_batch: .* asks for .*{name}, which is not allowed"):
            CIFAR10(folder, train=False)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"\x80\x02", "truncated"),
        (b"\x80\x02K\x05.", "expected a dictionary, got int"),
        (b"\x80\x02}K\x01s.", "a dict is missing"),
        (b"\x80\x04\x8c\x03a\nb\x8c\x01\x1b\x93.", r"asks for a\?b\.\?, which"),
        (b"\x80\x02}(K\x01u.", "without a value"),
        (b"\x80\x02})K\x01s.", "key of type tuple"),
        (b"\x80\x02h\x07.", "value 7 was never stored"),
        (b"\x80\x02q\x01.", "a value is missing"),
        (b"\x80\x02u.", "a mark is missing"),
        (b"\x80\x02(.", "a value is missing"),
        (b"\x80\x02]K\x01b.", "not an array"),
        (b"\x80\x02K\x01)R.", "not a function"),
        (b"\x80\x02]]\x85R.", "not a function"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "only plain arrays"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "dtype 'O'"),
        (b"\x80\x02cnumpy\ndtype\n)R.", "damaged"),
        (b"\x80\x02c" + b"x" * 300, "not ended"),
        (b"\x80\x02T\xff\xff\xff\xff.", "truncated"),
        (b"\x80\x04B\xff\xff\xff\xff.", "truncated"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "truncated"),
        (b"\x80\x02r\xff\xff\xff\xff.", "a value is missing"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged"),
        (b"(dp1\n.", "opcode b'd'"),
        (b"\x80\x02P1\n.", "opcode b'P'"),
    ],
)
def test_odd_pickles_are_refused_with_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(MinidlError, match=words) as caught:
        load_dict(data, "odd")
    assert str(caught.value).startswith("odd: ") and "\n" not in str(caught.value)


def test_an_array_whose_shape_promises_more_than_its_bytes_is_refused() -> None:
    data = pickle.dumps({"data": np.zeros((2, 3), np.uint8)}, protocol=2)
    lie = data.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86")
    assert lie != data
    with pytest.raises(MinidlError, match=r"shape \(255, 255\) and uint8 does not have 6 bytes"):
        load_dict(lie, "x")


def test_a_huge_memo_index_costs_no_memory() -> None:
    assert load_dict(b"\x80\x02}r\xff\xff\xff\xff.", "x") == {}


def test_batches_of_any_size_are_joined_in_their_numbers_order(cifar: Path) -> None:
    data = CIFAR10(cifar)
    parts = [batch(5, 1), batch(3, 2), batch(2, 3)]
    assert data.targets.tolist() == [label for part in parts for label in part["labels"]]
    rows = np.concatenate([part["data"] for part in parts])
    assert np.array_equal(data.images, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert data.images.flags.c_contiguous and data[9][0].shape == (32, 32, 3)
    assert data.name(5) == f"{cifar / 'data_batch_2'}: picture_0.png"
    assert data.classes[:2] == ["airplane", "automobile"] and len(data.classes) == 10
    assert len(CIFAR10(cifar, train=False)) == 4


def test_the_nested_folder_is_found_and_the_meta_file_names_the_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    names = [f"class {number}" for number in range(10)]
    write(folder, "test_batch", batch(4))
    write(folder, "batches.meta", {"label_names": names})
    assert CIFAR10(tmp_path, train=False).classes == names
    with pytest.raises(MinidlError, match="no data_batch_1 here"):
        CIFAR10(tmp_path)
    write(folder, "batches.meta", {"label_names": 3})
    with pytest.raises(MinidlError, match=r"batches\.meta: label_names is not a list"):
        CIFAR10(tmp_path, train=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [1, 2, 3]}, "4 images but 3 labels"),
        ({"labels": [1, 2, 3, 10]}, "label 10 outside of the 10 classes"),
        ({"labels": [1, 2, 3, -1]}, "label -1 outside"),
        ({"labels": [1, 2, 3, "4"]}, "labels is not a list of integers"),
        ({"labels": None}, "labels is not a list of integers"),
        ({"data": np.zeros((4, 3071), np.uint8)}, "not a uint8 array of 3072 columns"),
        ({"data": np.zeros((4, 3072), np.int32)}, "not a uint8 array"),
        ({"data": [1, 2]}, "not a uint8 array"),
    ],
)
def test_a_batch_that_does_not_fit_together_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write(tmp_path, "test_batch", {**batch(4), **change})
    with pytest.raises(MinidlError, match=f"test_batch: .*{words}"):
        CIFAR10(tmp_path, train=False)


def test_labels_may_be_an_array_and_file_names_may_lack(tmp_path: Path) -> None:
    content = batch(4)
    content["labels"] = np.array(content["labels"])
    del content["filenames"]
    write(tmp_path, "test_batch", content)
    data = CIFAR10(tmp_path, train=False)
    assert data.targets.tolist() == content["labels"].tolist() and data.name(3).endswith(
        "test_batch: image 3"
    )


def test_a_folder_without_batches_is_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(MinidlError, match=f"{place.name}: no CIFAR-10 files"):
            CIFAR10(place)


def test_the_published_files_are_read(real_data: Path) -> None:
    folder = real_data / "cifar-10-batches-py"
    train, test = CIFAR10(folder), CIFAR10(folder, train=False)
    assert len(train) == 4000 + 1017 + 1017 + 1329 + 1017 and len(test) == 1017
    assert train.classes[0] == "airplane" and train.classes[-1] == "truck"
    # The same content through Python's own unpickler, which is safe for these files only because they are known.
    with open(folder / "test_batch", "rb") as file:
        known = pickle.load(file, encoding="bytes")
    assert np.array_equal(test.images.transpose(0, 3, 1, 2).reshape(-1, 3072), known[b"data"])
    assert test.targets.tolist() == known[b"labels"]
