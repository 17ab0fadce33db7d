"""Pickles that try to run code or to exhaust the machine are refused in one sentence, and nothing happens."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from minidl.weights.allowed import ALLOWED
from minidl.weights.pickle_reader import MAX_OPERATIONS

PROTO = b"\x80\x02"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def as_zip(data: bytes, **storages: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", data)
        for name, content in storages.items():
            archive.writestr(f"m/data/{name}", content)
    return out.getvalue()


def as_stream(data: bytes) -> bytes:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + data


WRAP: dict[str, Callable[[bytes], bytes]] = {"zip": as_zip, "stream": as_stream, "bare": lambda data: data}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[bytes], weights.StateDict]]:
    """Loads bytes as a file; afterwards no file must have appeared and memory must have stayed small."""

    def load_bytes(content: bytes) -> weights.StateDict:
        path = tmp_path / "hostile.pth"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            return weights.load(path)
        except MinidlError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error) and len(str(error)) < len(str(path)) + 400
            raise
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 64 << 20, peak

    yield load_bytes
    assert os.listdir(tmp_path) == ["hostile.pth"], "the canary was written"


def running_code(canary: Path) -> dict[str, bytes]:
    """Pickles that write the file `canary` when an ordinary unpickler reads them."""
    shell = text(f"echo x > {canary}")
    code = text(f"open({str(canary)!r}, 'w')")
    return {
        "posix.system": PROTO + b"cposix\nsystem\n" + shell + b"\x85R.",
        "nt.system": PROTO + b"cnt\nsystem\n" + shell + b"\x85R.",
        "os.system": b"\x80\x04" + text("os") + text("system") + b"\x93" + shell + b"\x85R.",
        "builtins.eval": PROTO + b"cbuiltins\neval\n" + code + b"\x85R.",
        "builtins.exec": PROTO + b"}" + text("w") + b"cbuiltins\nexec\n" + code + b"\x85Rs.",
        "__builtin__.eval": b"c__builtin__\neval\n(V" + f"open({str(canary)!r}, 'w')".encode() + b"\ntR.",
        "subprocess.Popen": PROTO + b"(csubprocess\nPopen\n" + shell + b"o.",
        "builtins.open": b"\x80\x02(" + text(str(canary)) + text("w") + b"ibuiltins\nopen\n.",
        "builtins.getattr": PROTO + b"cbuiltins\ngetattr\n" + b"ctorch\nTensor\n" + text("x") + b"\x86R.",
        "torch.load": PROTO + b"ctorch\nload\n" + shell + b"\x85R.",
        "torch._utils.eval": PROTO + b"ctorch._utils\neval\n" + code + b"\x85R.",
        "collections.OrderedDict.fromkeys": b"\x80\x04"
        + text("collections")
        + text("OrderedDict.fromkeys")
        + b"\x93.",
        "numpy.load": PROTO + b"cnumpy\nload\n" + shell + b"\x85R.",
        "copyreg._reconstructor": PROTO + b"ccopyreg\n_reconstructor\n.",
        "_codecs.decode": PROTO + b"c_codecs\ndecode\n" + shell + b"\x85R.",
    }


NAMES = sorted(running_code(Path("canary")))


@pytest.mark.parametrize("wrap", ["zip", "stream", "bare"])
@pytest.mark.parametrize("name", NAMES)
def test_a_global_outside_the_list_is_refused_by_name(
    name: str, wrap: str, load: Callable, tmp_path: Path
) -> None:
    data = running_code(tmp_path / "canary")[name]
    if wrap == "bare" and data[:1] != b"\x80":
        data = PROTO + data
    with pytest.raises(MinidlError) as caught:
        load(WRAP[wrap](data))
    assert f"asks for {name}, which minidl does not load: it could run code" in str(caught.value)


def test_the_canary_is_real(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(running_code(canary)["builtins.eval"]).close()
    assert canary.exists()


@pytest.mark.parametrize("place", ["storage type", "hook", "key", "persistent id", "optimizer"])
def test_a_global_is_refused_wherever_it_stands(place: str, load: Callable, tmp_path: Path) -> None:
    bad = b"cposix\nsystem\n" + text(f"echo > {tmp_path / 'canary'}") + b"\x85R"
    data = {
        "storage type": tensor(storage=b"(" + text("storage") + bad + text("0") + text("cpu") + b"K\x01tQ"),
        "hook": tensor(hooks=bad),
        "key": b"}" + bad + b"Ns",
        "persistent id": bad + b"Q",
        "optimizer": b"}(" + text("state_dict") + b"}" + text("w") + tensor() + b"s" + text("o") + bad + b"u",
    }[place]
    with pytest.raises(MinidlError, match=r"asks for posix\.system"):
        load(as_zip(PROTO + data + b".", **{"0": bytes(4)}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x82\x01.", "uses an extension code"),
        (b"\x83\x01\x00.", "uses an extension code"),
        (b"\x84\x01\x00\x00\x00.", "uses an extension code"),
        (b"\x97.", "uses an out-of-band buffer"),
        (b"\x98.", "uses an out-of-band buffer"),
        (b"\xff.", "unknown opcode"),
        (b".", "the stack is empty"),
        (b"R.", "the stack is empty"),
        (b"NNR.", "a call of a NoneType"),
        (b"K\x05)R.", "a call of a int"),
        (b"ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        (b"cbuiltins\nint\n)\x81.", "a call of builtins.int"),
        (b"ccollections\nOrderedDict\n]R.", "a call of a AllowedGlobal"),
        (b"ccollections\nOrderedDict\n)}" + text("a") + b"Ns\x92.", "a call with keywords"),
        (b"]}b.", "a state for a list"),
        (b"ccollections\nOrderedDict\n}b.", "a state for a AllowedGlobal"),
        (b"ccollections\nOrderedDict\nNNs.", "keys for a AllowedGlobal"),
        (b"NNa.", "items for a NoneType"),
        (b"}(Nu.", "a key without a value"),
        (b"}]Ns.", "a dictionary key of type list"),
        (b"h\x05.", "opcode b'h': '5'"),
        (b"Np-1\n.", "a negative memo index"),
        (b"u.", "fails at byte"),
        (b"\x80\x09.", "protocol 9"),
        (b"NQ.", "a persistent id"),
        (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "bytes expected, got '2147483647'"),
        (b"cbuiltins\nlist\nJ\xff\xff\xff\x7f\x85R.", "a sequence of '2147483647'"),
        (b"c_codecs\nencode\n" + text("a") + text("bz2") + b"\x86R.", "an encoding other than latin1"),
        (b"cnumpy\ndtype\n" + text("f8,f8") + b"\x85R.", "a NumPy dtype 'f8,f8'"),
        (b"cnumpy\ndtype\ncbuiltins\nint\n\x85R.", "a NumPy dtype that is a class"),
        (b"c__main__\nNet\n)\x81.", "whole pickled model, not only its weights"),
        (b"c\xff\xfe\nx\n.", "fails at byte"),
    ],
)
def test_malformed_pickles_are_errors_in_one_sentence(data: bytes, message: str, load: Callable) -> None:
    with pytest.raises(MinidlError) as caught:
        load(as_zip(PROTO + data))
    assert message in str(caught.value)


EXHAUSTING = {
    "a string longer than the file": b"X\xff\xff\xff\xff",
    "a string of a terabyte": b"\x8d" + struct.pack("<Q", 1 << 40),
    "bytes of 2**64": b"\x8e" + b"\xff" * 8,
    "a bytearray of 2**63": b"\x96" + struct.pack("<Q", 1 << 63),
    "bytes of negative length": b"T\xff\xff\xff\xff",
    "an integer of two gigabytes": b"\x8b\xff\xff\xff\x7f",
    "an integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a text line without end": b"V" + b"a" * 1_000_000,
    "a global without end": b"c" + b"a" * 1_000_000,
    "a deep list": b"]" * 100_000 + b"a" * 100_000,
    "a deep tuple": b")" + b"\x85" * 200_000,
    "a deep tuple as a key": b"})" + b"\x85" * 200_000 + b"Ns",
    "a tuple of exponential size as a key": b"})" + b"2\x86" * 100 + b"Ns",
    "a list of exponential size": b"](K\x00" + b"2" * 50 + b"e" + b"\x94](h\x000e" * 10 + b"2\x86" * 100,
    "open marks": b"(" * 200_000,
    "a dictionary that holds itself": b"}\x94" + text("state_dict") + b"h\x00s",
    "keys of the same hash": b"}("
    + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, 20_000))
    + b"u",
    "a string copied without end": b"c_codecs\nencode\n\x94"
    + text("a" * 1_000_000)
    + b"\x94"
    + text("latin1")
    + b"\x94"
    + b"h\x00h\x01h\x02\x86R" * 500,
    "a list converted without end": b"ccollections\nOrderedDict\n\x94]\x94("
    + b"K\x01K\x02\x86" * 10_000
    + b"e"
    + b"h\x00h\x01\x85R" * 500,
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_a_pickle_cannot_exhaust_memory_stack_or_time(name: str, load: Callable) -> None:
    with pytest.raises(MinidlError):
        load(as_zip(PROTO + EXHAUSTING[name] + b"."))


def test_the_number_of_operations_is_bounded(monkeypatch: pytest.MonkeyPatch, load: Callable) -> None:
    assert MAX_OPERATIONS >= 1_000_000
    monkeypatch.setattr("minidl.weights.pickle_reader.MAX_OPERATIONS", 1000)
    with pytest.raises(MinidlError, match="its pickle has more than 1000 operations"):
        load(as_zip(PROTO + b"N0" * 1000 + b"N."))


# ---- tensors that lie outside their storage, or grow


def tensor(
    offset: bytes = b"K\x00",
    size: bytes = b"K\x01\x85",
    stride: bytes = b"K\x01\x85",
    numel: bytes = b"K\x01",
    storage: bytes | None = None,
    hooks: bytes = b"N",
) -> bytes:
    """The opcodes of a float32 tensor, by default of one element in storage "0"."""
    if storage is None:
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numel + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89" + hooks + b"tR"
    )


def long(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"offset": b"K\x01"}, "reaches element 1 of a storage of 1"),
        ({"offset": long(-1)}, "a size, stride or offset that is '-1'"),
        ({"size": long(-1) + b"\x85"}, "a size, stride or offset that is '-1'"),
        ({"stride": long(-4) + b"\x85"}, "a size, stride or offset that is '-4'"),
        ({"size": long(1 << 64) + b"\x85"}, "a size, stride or offset that is"),
        ({"size": long(1 << 61) + b"\x85"}, "reaches element"),
        ({"size": b"K\x02\x85"}, "reaches element 1 of a storage of 1"),
        ({"size": b"K\x02K\x02\x86", "stride": b"K\x00K\x01\x86"}, "reaches element 1"),
        ({"size": b"K\x01K\x01\x86"}, "a tensor of 2 sizes and 1 strides"),
        ({"size": b"\x88\x85"}, "a size, stride or offset that is a bool"),
        ({"size": b"G" + bytes(8) + b"\x85"}, "a size, stride or offset that is '0.0'"),
        ({"size": b"(" + b"K\x01" * 65 + b"t"}, "a shape that is not a short tuple"),
        ({"size": b"K\x01"}, "a shape that is not a short tuple"),
        ({"numel": b"K\x02"}, "storage '0' has 4 bytes, the pickle means 8"),
        ({"numel": long(1 << 62)}, "storage '0' has 4 bytes, the pickle means"),
        ({"numel": long(-1)}, "a storage without a size"),
        ({"storage": b"N"}, "a tensor on a NoneType"),
        ({"size": long(1 << 40) + b"\x85", "stride": b"K\x00\x85"}, "which a file of"),
    ],
)
def test_a_tensor_must_lie_inside_its_storage(fields: dict[str, bytes], message: str, load: Callable) -> None:
    data = PROTO + b"}" + text("w") + tensor(**fields) + b"s."
    with pytest.raises(MinidlError) as caught:
        load(as_zip(data, **{"0": bytes(4)}))
    assert message in str(caught.value)


def test_a_modest_expansion_is_read(load: Callable) -> None:
    data = PROTO + b"}" + text("w") + tensor(size=b"M\xe8\x03\x85", stride=b"K\x00\x85") + b"s."
    state = load(as_zip(data, **{"0": struct.pack("<f", 2.5)}))
    assert state["w"].shape == (1000,) and (state["w"] == 2.5).all()


def test_many_names_of_one_tensor_cannot_add_up_to_gigabytes(load: Callable) -> None:
    size, count = 1_000_000, 200
    one = tensor(size=long(size) + b"\x85", numel=long(size)) + b"\x94"
    names = b"".join(text(f"w{i}") + b"h\x00" for i in range(count))
    with pytest.raises(MinidlError, match="which a file of"):
        load(as_zip(PROTO + one + b"0}(" + names + b"u.", **{"0": bytes(4 * size)}))


def test_an_empty_tensor_may_have_any_other_length(load: Callable) -> None:
    data = PROTO + b"}" + text("w") + tensor(size=b"K\x00K\x07\x86", stride=b"K\x07K\x01\x86") + b"s."
    assert load(as_zip(data, **{"0": bytes(4)}))["w"].shape == (0, 7)
    huge = tensor(size=b"K\x00" + long(1 << 61) + long(1 << 61) + b"\x87", stride=b"K\x01K\x01K\x01\x87")
    with pytest.raises(MinidlError):
        load(as_zip(PROTO + b"}" + text("w") + huge + b"s.", **{"0": bytes(4)}))


def test_numpy_arrays_must_have_the_bytes_of_their_shape(load: Callable) -> None:
    good = pickle.dumps({"w": np.ones(3)}, 2)
    assert load(good)["w"].tolist() == [1, 1, 1]
    with pytest.raises(MinidlError, match="a NumPy array of 24 bytes for shape"):
        load(good.replace(b"K\x03\x85", b"K\x04\x85"))


def test_the_list_names_nothing_that_runs_code() -> None:
    modules = {module for module, _ in ALLOWED}
    assert not modules & {"os", "posix", "nt", "subprocess", "sys", "importlib", "runpy", "pickle", "shutil"}
    builtins = {name for module, name in ALLOWED if module == "builtins"}
    plain = {"bool", "int", "float", "complex", "str", "bytes", "bytearray"}
    assert builtins == plain | {"list", "tuple", "dict", "set", "frozenset"}
    # whatever the name, what stands behind it is a function of this package
    for entry in ALLOWED.values():
        assert entry._build is None or entry._build.__module__ == "minidl.weights.allowed"
