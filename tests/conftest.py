"""What every test starts from."""

from __future__ import annotations

import signal
import threading

import pytest

from minidl.kernels import devices

# A shell starts background jobs with Ctrl-C ignored, and children inherit that. The tests of Ctrl-C need the
# usual handler.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest --device cuda``: the tests of devices and kernels run on a graphics card instead."""
    parser.addoption(
        "--device",
        default="emulated",
        help="where the tests of devices and CUDA kernels run: emulated, cuda, cuda:1, or fake (the card's own code, "
        "over a module that stands for CuPy and the emulated device)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Set the device, before the tests are collected."""
    name = config.getoption("--device")
    if name == "fake":
        from tests.kernels.cuda import fake_cupy

        fake_cupy.install(pytest.MonkeyPatch())
        name = "cuda"
    if name != "emulated":
        from tests import target

        target.name = devices.canonical(name)


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test; the test is skipped, with the reason, when it is not there."""
    from tests import target

    try:
        return devices.place(target.name).name
    except (ImportError, devices.DeviceError) as error:
        if target.name != "emulated":
            raise  # asked for by name: not being there is a failure
        pytest.skip(str(error))
