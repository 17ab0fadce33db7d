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
    """``pytest --device cuda``: the tests of the emulated device run on a graphics card instead."""
    parser.addoption(
        "--device", default="emulated", help="where the tests of devices run: emulated, cuda, cuda:1"
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device under test; the test is skipped, with the reason, when it is not there."""
    name: str = request.config.getoption("--device")
    try:
        return devices.place(name).name
    except (ImportError, devices.DeviceError) as error:
        if name != "emulated":
            raise  # asked for by name: not being there is a failure
        pytest.skip(str(error))
