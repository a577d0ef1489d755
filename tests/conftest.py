"""Fixtures and settings that all tests share."""

import contextlib
import signal

import pytest
from hypothesis import HealthCheck, settings

from minivat.backend import Device, DeviceError, select_device
from tests.strict_device import strict_device

# Started by a shell's `&` or by nohup, the tests would ignore the signals that some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples on every run and every machine; a slow machine is no failure.
settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


def _devices() -> list[Device]:
    devices = [Device(), strict_device()]
    with contextlib.suppress(DeviceError):
        devices.append(select_device("cuda"))
    return devices


@pytest.fixture(scope="session", params=_devices(), ids=lambda device: device.name)
def device(request):
    """Every device there is: the CPU, the strict stand-in for CUDA, and CUDA where there is one."""
    return request.param
