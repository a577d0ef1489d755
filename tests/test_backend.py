"""Devices: how one is chosen, what is said when it cannot be, and its streams of random numbers."""

import functools
import inspect
import platform
import sys
import types

import numpy as np
import pytest

from minivat import backend, nn, training
from minivat.backend import (
    Device,
    DeviceError,
    host_generator,
    keep_freed_memory,
    select_device,
    stream_key,
)
from minivat.kernels import blas, cuda, philox, plain
from minivat.kernels.cudnn import CudnnKernels
from minivat.objective import Regularization
from tests.fake_cudnn import FakeCudnn
from tests.strict_device import strict_device
from tests.test_imports import python

# Choosing a device


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # its import then fails
    monkeypatch.delenv("MINIVAT_DEVICE", raising=False)


class FakeLinalg:
    """CuPy's setting of how float32 is multiplied."""

    COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32 = 1, 7

    def __init__(self):
        self.type = None

    def set_compute_type(self, dtype, compute_type):
        assert dtype is np.float32
        self.type = compute_type

    def get_compute_type(self, dtype):
        assert dtype is np.float32
        return self.type


class FakeStream:
    """CuPy's, as far as a capture goes; `log` tells what was done with it."""

    ptr = 7

    def __init__(self, log, non_blocking=False):
        assert non_blocking
        self.log = log

    def __enter__(self):
        self.log.append("current")

    def __exit__(self, *error):
        self.log.append("not current")

    def begin_capture(self):
        self.log.append("begin")

    def end_capture(self):
        self.log.append("end")
        return types.SimpleNamespace(launch=lambda: self.log.append("launch"))


class FakeAllocator:
    """using_allocator."""

    def __init__(self, log, allocate):
        self.log, self.allocate = log, allocate

    def __enter__(self):
        self.log.append(self.allocate())

    def __exit__(self, *error):
        self.log.append("default allocator")


def fake_cupy(available=True, ones=np.ones, capability="90"):
    log = []
    current = types.SimpleNamespace(ptr=7, synchronize=lambda: log.append("synchronized"))
    cuda = types.SimpleNamespace(
        is_available=lambda: available,
        Device=lambda: types.SimpleNamespace(id=0, compute_capability=capability),
        runtime=types.SimpleNamespace(getDeviceProperties=lambda n: {"name": b"NVIDIA X"}),
        get_current_stream=lambda: current,
        Stream=functools.partial(FakeStream, log),
        MemoryPool=lambda: types.SimpleNamespace(malloc=lambda: "own pool"),
        using_allocator=functools.partial(FakeAllocator, log),
    )
    core = types.SimpleNamespace(_routines_linalg=FakeLinalg())
    return types.SimpleNamespace(
        cuda=cuda, _core=core, ones=ones, ElementwiseKernel=lambda *a, **k: None, log=log
    )


def test_the_cpu_is_chosen_where_there_is_nothing_else(no_cupy):
    assert select_device().name == "cpu"
    assert select_device("auto").name == "cpu"
    assert select_device("cpu").description.startswith("cpu")


def test_the_gpu_is_chosen_where_it_works(no_cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    assert select_device("auto").name == "cuda"
    assert select_device("cuda").name == "cuda"
    assert select_device("cpu").name == "cpu"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_environment_variable_decides_for_auto(no_cupy, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setenv("MINIVAT_DEVICE", name)
    assert select_device("auto").name == name
    assert select_device("cpu").name == "cpu"
    monkeypatch.setenv("MINIVAT_DEVICE", "")
    assert select_device("auto").name == "cuda"


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def broken(x):
    raise RuntimeError("libnvrtc.so.12: cannot open shared object file\nand more lines")


@pytest.mark.parametrize(
    ("cupy", "said"),
    [
        (None, "CuPy is not installed; pip install"),
        (fake_cupy(available=False), "no usable CUDA GPU"),
        (fake_cupy(ones=broken), "libnvrtc.so.12: cannot open shared object file"),
    ],
)
def test_what_is_missing_for_cuda_is_said(no_cupy, monkeypatch, cupy, said):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(DeviceError) as caught:
        select_device("cuda")
    assert said in one_line(caught)
    assert one_line(caught).startswith("device cuda: ")
    assert select_device("auto").name == "cpu"
    # Asked for by the environment it is asked for, too.
    monkeypatch.setenv("MINIVAT_DEVICE", "cuda")
    with pytest.raises(DeviceError, match="device cuda"):
        select_device("auto")


def test_a_name_that_is_none(no_cupy, monkeypatch):
    with pytest.raises(DeviceError, match=r"auto, cpu or cuda.*'gpu'") as caught:
        select_device("gpu")
    one_line(caught)
    monkeypatch.setenv("MINIVAT_DEVICE", "tpu")
    with pytest.raises(DeviceError, match="'tpu'") as caught:
        select_device("auto")
    assert "MINIVAT_DEVICE" in one_line(caught)


# TensorFloat-32


def test_tf32_is_cupys_setting_and_off_unless_asked_for(no_cupy, monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    linalg = cupy._core._routines_linalg
    for asked in (False, True, False):
        device = select_device("cuda", tf32=asked)
        expected = linalg.COMPUTE_TYPE_TF32 if asked else linalg.COMPUTE_TYPE_DEFAULT
        assert linalg.type == expected
        assert device.description.endswith(", TF32") == asked
    assert select_device("cpu", tf32=True).name == "cpu"


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_tf32_where_the_gpu_has_none(no_cupy, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(capability="75"))
    with pytest.raises(
        DeviceError, match=r"tf32 needs .* 8.0 or higher, this one has 7.5"
    ) as caught:
        select_device(name, tf32=True)
    one_line(caught)
    assert select_device(name).name == "cuda"


def test_what_is_assumed_of_cupy():
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    assert hasattr(cupy.ndarray, "__cuda_array_interface__")
    assert callable(cupy.cuda.get_current_stream)
    assert hasattr(cupy.cuda.Stream, "ptr") or "ptr" in vars(cupy.cuda.Stream(null=True))
    linalg = cupy._core._routines_linalg
    before = linalg.get_compute_type(np.float32)
    linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_PEDANTIC)
    assert linalg.get_compute_type(np.float32) == linalg.COMPUTE_TYPE_PEDANTIC
    linalg.set_compute_type(np.float32, before)
    assert linalg.COMPUTE_TYPE_TF32 != linalg.COMPUTE_TYPE_DEFAULT
    assert cupy.cuda.Device.compute_capability
    # Neither has a signature that Python can read.
    assert "begin_capture(self, mode=None)" in cupy.cuda.Stream.begin_capture.__doc__
    assert "end_capture(self)" in cupy.cuda.Stream.end_capture.__doc__
    assert "launch(self, stream=None)" in cupy.cuda.graph.Graph.launch.__doc__
    kernel = philox.CudaKernels(cupy)._normal
    assert (kernel.nin, kernel.nout, kernel.preamble) == (3, 1, philox.SOURCE)
    # Kernels are compiled when they are called first: without a GPU they can be made.
    loops_, rows = cuda.CudaLoops(cupy), cuda.CudaRows(cupy)
    assert (loops_._adam.nin, loops_._adam.nout) == (6, 3)
    assert (loops_._average.nin, loops_._average.nout) == (4, 1)
    assert rows._kernels["unit", "f"].name == "unit"
    assert "args" in cupy.RawKernel.__call__.__doc__
    assert list(inspect.signature(cupy.empty).parameters)[:2] == ["shape", "dtype"]
    assert callable(cupy.cuda.MemoryPool().malloc)
    with cupy.cuda.using_allocator(cupy.cuda.MemoryPool().malloc):
        pass


# Recording


RECORDED = ["synchronized", "current", "own pool", "begin", "work", "end"]


def test_work_is_recorded_on_a_stream_and_from_a_pool_of_its_own(no_cupy, monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device = select_device("cuda")
    result, launch = device.capture(lambda: cupy.log.append("work") or "result")
    assert result == "result"
    recorded = [*RECORDED, "default allocator", "not current"]
    assert cupy.log == recorded
    launch()
    launch()
    assert cupy.log == [*recorded, "launch", "launch"]


def test_a_recording_that_fails_is_ended(no_cupy, monkeypatch):
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)

    def work():
        cupy.log.append("work")
        raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        select_device("cuda").capture(work)
    assert cupy.log == [*RECORDED, "default allocator", "not current"]


# Kernels of the convolution


class CudaArray:
    """An array by which CuPy's are known."""

    __cuda_array_interface__ = None


@pytest.fixture
def fresh(no_cupy, monkeypatch):
    """Nothing found so far, and CuPy there."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    for function in (backend._kernels_for, backend._cuda_kernels):
        function.cache_clear()
    yield
    for function in (backend._kernels_for, backend._cuda_kernels):
        function.cache_clear()


def test_cupys_arrays_are_convolved_by_cudnn(fresh, monkeypatch):
    cudnn = FakeCudnn()
    monkeypatch.setitem(sys.modules, "cudnn", cudnn)
    kernels = backend.convolution_kernels(CudaArray(), CudaArray())
    assert isinstance(kernels, CudnnKernels)
    assert backend.convolution_kernels(CudaArray()) is kernels
    assert kernels._stream() == 7
    device = select_device("cuda", tf32=True)
    assert kernels._tf32()
    assert device.description == "cuda: NVIDIA X, cuDNN 9.28.0, TF32"
    select_device("cuda")
    assert not kernels._tf32()


def no_handle():
    raise RuntimeError("libcudnn.so.9: cannot open shared object file\nand more lines")


@pytest.mark.parametrize(
    ("cudnn", "said"),
    [
        (None, "nvidia-cudnn-frontend is not installed"),
        (types.SimpleNamespace(create_handle=no_handle), "libcudnn.so.9: cannot open"),
        (types.SimpleNamespace(), "create_handle"),
    ],
)
def test_without_cudnn_the_plain_kernels_are_used_and_the_description_says_why(
    fresh, monkeypatch, cudnn, said
):
    monkeypatch.setitem(sys.modules, "cudnn", cudnn)
    assert backend.convolution_kernels(CudaArray()) is plain
    description = select_device("cuda").description
    assert description.startswith("cuda: NVIDIA X, without cuDNN: ")
    assert said in description
    assert "\n" not in description


def test_other_arrays_need_no_cudnn(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", types.SimpleNamespace(create_handle=no_handle))
    assert backend.convolution_kernels(strict_device().asarray(0.0)) is plain
    assert backend.convolution_kernels(np.zeros(1), np.zeros(1)) is blas
    assert backend._cuda_kernels.cache_info().misses == 0


def test_arrays_of_two_kinds_are_left_to_the_plain_kernels_to_refuse(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", FakeCudnn())
    strict = strict_device().asarray(0.0)
    for mixed in [(CudaArray(), np.zeros(1)), (np.zeros(1), CudaArray()), (np.zeros(1), strict)]:
        assert backend.convolution_kernels(*mixed) is plain


# Arrays


def test_arrays_go_there_and_back(device):
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = device.asarray(host)
    assert (array.shape, array.dtype) == ((2, 3), np.float32)
    assert device.asarray(host, "float64").dtype == np.float64
    back = device.to_host(array)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, host)
    np.testing.assert_array_equal(device.to_host(device.asarray([1, 2])), [1, 2])
    device.synchronize()


# Random numbers


@pytest.mark.parametrize("draw", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_are_named_by_seed_purpose_and_step(draw, dtype, device):
    def numbers(*name):
        array = getattr(device.random(*name), draw)((50, 2), dtype)
        assert (array.shape, array.dtype) == ((50, 2), np.dtype(dtype))
        return device.to_host(array)

    names = [(1, "noise", 0), (2, "noise", 0), (1, "dropout", 0), (1, "noise", 1), (12, "noise", 0)]
    drawn = [numbers(*name) for name in names]
    for i, name in enumerate(names):
        np.testing.assert_array_equal(drawn[i], numbers(*name))
        for other in drawn[:i]:
            assert not np.any(drawn[i] == other)
    stream = device.random(1, "noise", 0)
    first, second = (device.to_host(getattr(stream, draw)((50, 2), dtype)) for _ in range(2))
    assert not np.any(first == second)
    np.testing.assert_array_equal(first, drawn[0])


def test_moments(device):
    normal = device.to_host(device.random(0, "a").normal((200_000,)))
    uniform = device.to_host(device.random(0, "b").uniform((200_000,)))
    assert normal.dtype == uniform.dtype == np.float32
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs((normal**3).mean()) < 0.03
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(uniform.std() - 12**-0.5) < 0.005


def test_host_streams():
    a = host_generator(3, "permutation", 7).permutation(10)
    np.testing.assert_array_equal(a, host_generator(3, "permutation", 7).permutation(10))
    assert not np.array_equal(a, host_generator(3, "permutation", 8).permutation(10))


def test_keys_never_change():
    """A run resumed by a later version must draw what the earlier one would have drawn."""
    assert stream_key(1, "virtual adversarial direction", 59_999) == (
        106737334270115235759524445333504354453
    )
    assert 0 <= stream_key(2**63, "", -1) < 2**128
    # The parts are kept apart.
    assert stream_key(1, "a", 11) != stream_key(1, "a/1", 1)
    keys = {stream_key(s, p, u) for s in range(20) for p in ("a", "b") for u in range(50)}
    assert len(keys) == 2000


# Memory


FAULTS = """if True:
    import resource
    import numpy as np
    from minivat.backend import keep_freed_memory
    {call}
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [np.ones(1 << 17) for _ in range(32)]  # 32 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    faults()
    print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_freed_memory_is_kept_for_the_next_arrays():
    """Without the setting, every page of them has to be fetched again."""
    again, kept = (
        [int(n) for n in python(FAULTS.format(call=call)).split()]
        for call in ("", "keep_freed_memory(), keep_freed_memory()")
    )
    assert max(kept) < 100 < 4000 < min(again)


def test_a_trainer_on_the_cpu_keeps_freed_memory(device, monkeypatch):
    called = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: called.append(True))
    training.Trainer(
        nn.mlp([3, 2]),
        device,
        np.ones((4, 3), np.float32),
        np.array([0, 1, 0, 1]),
        regularization=Regularization("mle"),
        learning_rate=lambda update: 0.1,
        seed=0,
        batch_size=2,
    )
    assert called == [True] * (device.name == "cpu")


def test_where_the_c_library_has_no_such_setting_nothing_happens(monkeypatch):
    for missing in (OSError, TypeError):

        def library(name, missing=missing):
            raise missing

        monkeypatch.setattr("ctypes.CDLL", library)
        assert keep_freed_memory.__wrapped__() is None


def test_the_cpu_device_has_the_interface_that_all_have(device):
    for name in vars(Device):
        if not name.startswith("_"):
            assert hasattr(device, name)
