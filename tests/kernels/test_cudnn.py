"""Convolution by cuDNN: on the stand-in for its package everywhere, on a GPU where there is one."""

import inspect
import types
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import backend, ops
from minivat.autodiff import linearize
from minivat.backend import DeviceError, select_device
from minivat.kernels import plain
from minivat.kernels.cudnn import ALIGNMENT, INPUTS, RESULT, CudnnKernels
from tests import fake_cudnn
from tests.fake_cudnn import FakeCudnn
from tests.strict_device import strict_device

VALID = ((0, 0), (0, 0))
NOTES = FakeCudnn().numerical_note


def make(cudnn, tf32=False, stream=7):
    return CudnnKernels(cudnn, lambda: stream, lambda: tf32)


def device_array(shape, seed=0, dtype="float32"):
    values = np.random.default_rng(seed).normal(size=shape)
    return strict_device().asarray(values, dtype)


def calls(x, weight, stride, padding):
    """The three functions' names and arguments for one convolution."""
    g = device_array(plain.forward(x, weight, stride, padding).shape, 2, x.dtype)
    return {
        "forward": (x, weight, stride, padding),
        "input_gradient": (g, weight, x.shape, stride, padding),
        "weight_gradient": (x, g, weight.shape[:2], stride, padding),
    }


def check(kernels, x, weight, stride=(1, 1), padding=VALID, rtol=1e-5):
    for name, args in calls(x, weight, stride, padding).items():
        y, expected = getattr(kernels, name)(*args), getattr(plain, name)(*args)
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        assert y.flags.c_contiguous or kernels is plain
        scale = np.abs(expected.get()).max(initial=1e-30)
        np.testing.assert_allclose(y.get(), expected.get(), rtol=0, atol=rtol * scale)


# The graphs compute what the plain kernels do


@st.composite
def convolutions(draw):
    """Shapes of x and of the weight, stride and padding, such that every window fits."""
    small = st.integers(1, 3)
    window, stride = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    around = st.integers(0, 2)
    padding = tuple(draw(st.tuples(around, around)) for _ in range(2))
    size = tuple(
        max(1, w - sum(p)) + draw(st.integers(0, 4)) for w, p in zip(window, padding, strict=True)
    )
    channels = draw(st.tuples(small, small))
    return (draw(small), *size, channels[0]), (*window, *channels), stride, padding


@given(convolutions())
def test_equals_the_plain_kernels(convolution):
    x, weight, stride, padding = convolution
    cudnn = FakeCudnn()
    check(make(cudnn), device_array(x), device_array(weight, 1), stride, padding)
    assert [len(graph.runs) for graph in cudnn.graphs] == [1, 1, 1]
    assert {graph.operation for graph in cudnn.graphs} == set(INPUTS)


def test_arrays_that_lie_otherwise_in_memory():
    kernels = make(FakeCudnn())
    x, weight = device_array((5, 4, 3, 2)), device_array((2, 2, 4, 3), 1)
    check(kernels, np.transpose(x, (3, 1, 2, 0)), device_array((2, 2, 5, 3)))
    check(kernels, np.broadcast_to(x[:1], (3, 4, 3, 2)), device_array((1, 1, 2, 3)))
    # Contiguous in spite of its strides, of which no result may be made.
    gray = np.transpose(device_array((1, 1, 4, 4)), (0, 2, 3, 1))
    assert gray.flags.c_contiguous
    check(kernels, gray, device_array((2, 2, 1, 3)))
    check(kernels, x[:, ::-1], np.transpose(weight, (0, 1, 3, 2))[:, :, :2])


def test_arrays_at_odd_addresses_are_copied():
    numbers = device_array((97,))
    x = numbers[1:].reshape((2, 4, 4, 3))
    assert x.data.ptr % ALIGNMENT
    check(make(FakeCudnn()), x, device_array((3, 3, 3, 2)))
    check(make(FakeCudnn()), device_array((2, 4, 4, 1)), numbers[1:9].reshape((2, 2, 1, 2)))
    check(make(FakeCudnn()), device_array((2, 4, 4, 8)), numbers[1:9].reshape((1, 1, 8, 1)))


def test_derivatives_of_the_operation(monkeypatch):
    """Its rules are the kernels, in every order; here the second is the bilinear map's own."""
    cudnn = FakeCudnn()
    kernels = make(cudnn)
    monkeypatch.setattr("minivat.ops.convolution.convolution_kernels", lambda *arrays: kernels)
    x, weight, t = (
        device_array((2, 5, 5, 3)),
        device_array((3, 3, 3, 4), 1),
        device_array((2, 5, 5, 3), 3),
    )
    y, jvp, vjp = linearize(lambda x: ops.conv2d(x, weight), x)
    g = device_array(y.shape, 2)
    left, right = np.vdot(g.get(), jvp(t).get()), np.vdot(vjp(g).get(), t.get())
    assert left == pytest.approx(right, rel=1e-5)
    assert {graph.operation for graph in cudnn.graphs} == {"conv_fprop", "conv_dgrad"}


# Plans


def test_a_plan_is_made_once_for_each_configuration():
    cudnn = FakeCudnn()
    tf32 = False
    kernels = CudnnKernels(cudnn, lambda: 7, lambda: tf32)
    x, weight = device_array((2, 6, 6, 3)), device_array((3, 3, 3, 4), 1)
    variations = [
        (x, weight, (1, 1), VALID),
        (x, weight, (2, 1), VALID),
        (x, weight, (1, 1), ((1, 1), (1, 1))),
        (x[:1], weight, (1, 1), VALID),
        (x, weight[:2], (1, 1), VALID),
        (x, weight[..., :2], (1, 1), VALID),
    ]
    for n, arguments in enumerate(variations, 1):
        for _ in range(2):
            kernels.forward(*arguments)
        assert len(cudnn.graphs) == n
    tf32 = True
    kernels.forward(*variations[0])
    assert len(cudnn.graphs) == len(variations) + 1
    # Two images whose gradients look the same.
    g = kernels.forward(x, weight, (2, 2), VALID)
    a = kernels.input_gradient(g, weight, (2, 6, 6, 3), (2, 2), VALID)
    b = kernels.input_gradient(g, weight, (2, 5, 5, 3), (2, 2), VALID)
    assert (a.shape, b.shape) == ((2, 6, 6, 3), (2, 5, 5, 3))


def test_runs_on_the_stream_that_is_current():
    cudnn, stream = FakeCudnn(), iter([11, 12, 13])
    kernels = CudnnKernels(cudnn, lambda: next(stream), lambda: False)
    check(kernels, device_array((1, 3, 3, 1)), device_array((2, 2, 1, 1)))
    assert cudnn.streams == [11, 12, 13]


def test_a_workspace_that_is_outgrown_stays_where_it_is():
    """A CUDA graph that was captured with it goes on using it."""
    cudnn = FakeCudnn(workspace=[100, 50, 200])
    kernels = make(cudnn)
    arguments = [(device_array((n, 3, 3, 1)), device_array((2, 2, 1, 1))) for n in (1, 2, 3)]
    for _ in range(2):
        for x, weight in arguments:
            kernels.forward(x, weight, (1, 1), VALID)
    (a, aa), (b, bb), (c, cc) = ([r["workspace"] for r in g.runs] for g in cudnn.graphs)
    assert a == aa == b == bb
    assert c == cc != a


@pytest.mark.parametrize("tf32", [False, True])
def test_only_kernels_that_keep_what_is_promised(tf32):
    """Deterministic ones, never in half precision, and on tensor cores only where TF32 is on."""
    plans = (
        (NOTES.NONDETERMINISTIC,),
        (NOTES.TENSOR_CORE, NOTES.DOWN_CONVERT_INPUTS),
        (NOTES.TENSOR_CORE,),
        (NOTES.WINOGRAD,),
    )
    cudnn = FakeCudnn(plans)
    check(make(cudnn, tf32), device_array((1, 3, 3, 1)), device_array((2, 2, 1, 1)))
    best = NOTES.TENSOR_CORE if tf32 else NOTES.WINOGRAD
    assert [graph.plan for graph in cudnn.graphs] == [(best,)] * 3
    assert all(0 < graph.workspace_limit <= 2**30 for graph in cudnn.graphs)


# Where cuDNN is not used


@pytest.mark.parametrize("dtypes", [("float64", "float64"), ("float32", "float64")])
def test_other_dtypes_are_computed_plainly(dtypes):
    cudnn = FakeCudnn()
    x, weight = device_array((2, 4, 4, 3), 0, dtypes[0]), device_array((3, 3, 3, 2), 1, dtypes[1])
    y = make(cudnn).forward(x, weight, (1, 1), VALID)
    assert y.dtype == np.float64
    if dtypes[0] == dtypes[1]:
        kernels = make(cudnn)
        for name, args in calls(x, weight, (1, 1), VALID).items():
            result = getattr(kernels, name)(*args)
            np.testing.assert_array_equal(result.get(), getattr(plain, name)(*args).get())
    assert cudnn.graphs == []


def test_without_a_plan_the_plain_kernels_compute_and_a_warning_says_so_once():
    cudnn = FakeCudnn(plans=((NOTES.NONDETERMINISTIC,),))
    kernels = make(cudnn)
    x, weight = device_array((2, 4, 4, 3)), device_array((3, 3, 3, 2), 1)
    arguments = calls(x, weight, (1, 1), VALID)
    for name, args in arguments.items():
        with pytest.warns(RuntimeWarning, match="cuDNN has no conv_.*cuBLAS") as caught:
            result = getattr(kernels, name)(*args)
        assert "\n" not in str(caught[0].message)
        assert len(caught) == 1
        np.testing.assert_array_equal(result.get(), getattr(plain, name)(*args).get())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, args in arguments.items():
            getattr(kernels, name)(*args)
    assert len(cudnn.graphs) == 3


def test_no_images():
    """cuDNN refuses arrays without elements; of these there is nothing to warn."""
    cudnn = FakeCudnn()
    check(make(cudnn), device_array((0, 4, 4, 3)), device_array((3, 3, 3, 2)))
    assert cudnn.graphs == []


# The stand-in is as strict as the package


def test_the_stand_in_refuses():
    cudnn = FakeCudnn()
    kernels = make(cudnn)
    check(kernels, device_array((1, 3, 3, 1)), device_array((2, 2, 1, 1)))
    graph = cudnn.graphs[0]
    with pytest.raises(TypeError, match="padding"):
        graph.conv_fprop(image=None, weight=None, padding=[0, 0])
    with pytest.raises(AttributeError):
        graph.conv2d()
    with pytest.raises(AssertionError):
        graph.build_plans()
    with pytest.raises(AssertionError):
        graph.execute({**graph.runs[0], RESULT: graph.runs[0][RESULT] + 4}, 0, handle=cudnn.handle)
    with pytest.raises(AttributeError):
        cudnn.numerical_note.TF32  # noqa: B018


class TestPackage:
    """The tables, against nvidia-cudnn-frontend itself; no GPU is needed for that."""

    @pytest.fixture
    def cudnn(self):
        return pytest.importorskip("cudnn", exc_type=ImportError)

    def test_signatures(self, cudnn):
        tables = [
            (cudnn, fake_cudnn.FUNCTIONS),
            (cudnn.pygraph, fake_cudnn.GRAPH),
            (cudnn.Tensor, fake_cudnn.TENSOR),
        ]
        for owner, table in tables:
            for name, ours in table.items():
                theirs = [
                    parameter.name
                    for parameter in inspect.signature(getattr(owner, name)).parameters.values()
                    if parameter.name not in ("self", "ctx")
                    and parameter.kind is not parameter.VAR_KEYWORD
                    and parameter.kind is not parameter.VAR_POSITIONAL
                ]
                expected = [p for p in theirs if p in ours.split()]
                assert ours.split() == expected, name

    def test_enumerations(self, cudnn):
        for name, members in fake_cudnn.ENUMS.items():
            assert set(members.split()) <= set(getattr(cudnn, name).__members__)
        assert not issubclass(cudnn.cudnnGraphNotSupportedError, (RuntimeError, ValueError))
        assert issubclass(cudnn.cudnnGraphNotSupportedError, Exception)
        assert callable(cudnn.backend_version_string)

    @pytest.mark.parametrize("operation", INPUTS)
    def test_operations(self, cudnn, operation):
        documentation = getattr(cudnn._pybind_module.backend_graph, operation).__doc__
        overload = next(line for line in documentation.splitlines() if "pre_padding" in line)
        names = f"{fake_cudnn.OPERATIONS[operation]} {fake_cudnn.GEOMETRY}".split()
        assert all(f" {name}: " in overload for name in names)
        assert list(INPUTS[operation]) == fake_cudnn.OPERATIONS[operation].split()

    def test_the_package_finds_the_graphs_valid(self, cudnn):
        """Up to the step that needs a GPU, in which `Validated` is raised in its place."""

        class Graph(cudnn.pygraph):
            def build_operation_graph(self):
                sizes = {t.uid: (tuple(t.dim), tuple(t.stride)) for t in self.tensors.values()}
                raise RuntimeError(f"valid: {sorted(sizes.items())}")

        halting = types.SimpleNamespace(
            **{name: getattr(cudnn, name) for name in (*fake_cudnn.ENUMS, "set_stream")},
            cudnnGraphNotSupportedError=cudnn.cudnnGraphNotSupportedError,
            create_handle=lambda: None,
            pygraph=Graph,
        )
        kernels = make(halting)
        x, weight = device_array((4, 9, 7, 3)), device_array((3, 2, 3, 5))
        for stride in [(1, 1), (2, 1)]:
            for name, args in calls(x, weight, stride, ((0, 1), (1, 1))).items():
                with pytest.warns(RuntimeWarning, match="valid: ") as caught:
                    getattr(kernels, name)(*args)
                if name == "forward":
                    assert "(1, ((4, 3, 9, 7), (189, 1, 21, 3)))" in str(caught[0].message)


# On a GPU


@pytest.fixture(scope="module")
def gpu():
    """A GPU whose convolutions are cuDNN's."""
    try:
        device = select_device("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    if not isinstance(backend.convolution_kernels(device.asarray(0.0)), CudnnKernels):
        pytest.skip(device.description)
    return device


SHAPES = [  # of Conv-Small and Conv-Large: images, weights, and how far they are padded
    ((32, 32, 32, 3), (3, 3, 3, 96), 1),
    ((32, 32, 32, 96), (3, 3, 96, 96), 1),
    ((32, 16, 16, 192), (3, 3, 192, 192), 1),
    ((32, 8, 8, 192), (3, 3, 192, 192), 0),
    ((32, 6, 6, 192), (1, 1, 192, 192), 0),
]
CONFIGURATIONS = [  # strides and paddings that those networks do not have
    ((2, 1), ((0, 1), (1, 1))),
    ((2, 3), VALID),
    ((1, 1), ((2, 0), (0, 1))),
]


@pytest.mark.parametrize(("images", "weights", "padded"), SHAPES)
def test_gpu_equals_cublas(gpu, images, weights, padded):
    x, weight = (gpu.asarray(device_array(shape, 1).get()) for shape in (images, weights))
    kernels, padding = backend.convolution_kernels(x), ((padded, padded),) * 2
    g = plain.forward(x, weight, (1, 1), padding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # cuDNN has a plan
        for name, args in {
            "forward": (x, weight, (1, 1), padding),
            "input_gradient": (g, weight, images, (1, 1), padding),
            "weight_gradient": (x, g, weights[:2], (1, 1), padding),
        }.items():
            y, expected = getattr(kernels, name)(*args), getattr(plain, name)(*args)
            again = getattr(kernels, name)(*args)
            np.testing.assert_array_equal(y.get(), again.get())
            error = np.linalg.norm(y.get() - expected.get()) / np.linalg.norm(expected.get())
            assert error < 1e-5, name  # TensorFloat-32's would be 3e-4


def test_gpu_other_configurations(gpu):
    """With a plan or without one, the result is right."""
    x, weight = (gpu.asarray(device_array(s, 1).get()) for s in [(4, 9, 7, 5), (3, 2, 5, 6)])
    for stride, padding in [
        ((2, 1), ((0, 1), (1, 1))),
        ((2, 3), VALID),
        ((1, 1), ((2, 0), (0, 1))),
    ]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(backend.convolution_kernels(x), x, weight, stride, padding)


def test_gpu_capture(gpu):
    """A captured convolution with its gradients computes from what its inputs hold at replay."""
    import cupy

    x, weight = (gpu.asarray(device_array(s, 1).get()) for s in [(8, 16, 16, 32), (3, 3, 32, 32)])
    kernels, padding = backend.convolution_kernels(x), ((1, 1), (1, 1))

    def update():
        y = kernels.forward(x, weight, (1, 1), padding)
        return (
            y,
            kernels.input_gradient(y, weight, x.shape, (1, 1), padding),
            kernels.weight_gradient(x, y, (3, 3), (1, 1), padding),
        )

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        update()
        stream.synchronize()
        stream.begin_capture()
        results = update()
        graph = stream.end_capture()
        x *= 2.0
        graph.launch(stream)
        expected = update()
        stream.synchronize()
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result.get(), value.get())


def test_gpu_tf32(gpu):
    """TF32 rounds, in convolutions and in products, and only where it is asked for."""
    a, weight = (gpu.asarray(device_array(s, 1).get()) for s in [(8, 16, 16, 64), (3, 3, 64, 64)])

    def results():
        yield backend.convolution_kernels(a).forward(a, weight, (1, 1), VALID).get()
        yield (a.reshape((-1, 64)) @ weight[0, 0]).get()

    exact = list(results())
    try:
        assert select_device("cuda", tf32=True).description.endswith("TF32")
        for y, expected in zip(results(), exact, strict=True):
            error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
            assert 1e-5 < error < 1e-2
    finally:
        assert not select_device("cuda").description.endswith("TF32")
    for y, expected in zip(results(), exact, strict=True):
        np.testing.assert_array_equal(y, expected)
