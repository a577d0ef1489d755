"""Networks of PyTorch and JAX: the same answers as minivat's own with the same weights, and as
their own frameworks' Hessians; which arrays cross; what is refused."""

import gc
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minivat import Tensor, curvature, interop, vat
from minivat.backend import to_host
from minivat.vat import PowerIteration
from tests.strict_device import StrictArray
from tests.test_vat import Problem

TOLERANCES = {np.float64: 1e-10, np.float32: 1e-4}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.__name__)


# Forward mode, which torch.func.hessian uses, has PyTorch warn of itself at its first use.
ignore_torch = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@pytest.fixture
def torch():
    """PyTorch on one thread: threads cost more than they bring for so little."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture
def jax():
    """JAX with float64."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=["torch", "jax"])
def framework(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def sharing_device(device, monkeypatch):
    """Every device; the stand-in with CuPy's part of DLPack, its memory being the host's."""
    if device.name == "strict":
        cupy = SimpleNamespace(from_dlpack=lambda array: StrictArray(np.from_dlpack(array)))
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        for name in ("__dlpack__", "__dlpack_device__"):
            monkeypatch.setattr(StrictArray, name, of_the_host_array(name), raising=False)
    return device


def of_the_host_array(name):
    def method(self, **options):
        return getattr(self._host, name)(**options)

    return method


def torch_module(torch, problem, dtype=np.float64, device="cpu"):
    """The problem's network as a PyTorch module, in evaluation mode."""

    def tensor(a):
        return torch.tensor(a.astype(dtype), device=device)

    params, state = problem.params, problem.state
    layers = []
    for i in range(1, 1 + sum(name.startswith("dense") for name in params) // 2):
        weight = tensor(params[f"dense{i}.weight"].T)
        dense = torch.nn.Linear(*weight.shape[::-1]).to(weight)
        dense.weight.data, dense.bias.data = weight, tensor(params[f"dense{i}.bias"])
        norm = torch.nn.BatchNorm1d(len(weight), eps=1e-6).to(weight)
        norm.weight.data = tensor(params[f"norm{i}.gamma"])
        norm.bias.data = tensor(params[f"norm{i}.beta"])
        norm.running_mean = tensor(state[f"norm{i}.running_mean"])
        norm.running_var = tensor(state[f"norm{i}.running_var"])
        layers += [dense, norm, torch.nn.LeakyReLU(0.1, inplace=True)]
    return torch.nn.Sequential(*layers[:-1]).eval()


def jax_function(jax, problem, dtype=np.float64):
    """The problem's network, with running statistics, as a jitted function of JAX."""
    np_params = {**problem.params, **problem.state}
    p = {name: jax.numpy.asarray(a.astype(dtype)) for name, a in np_params.items()}
    layers = sum(name.startswith("dense") for name in p) // 2

    def function(x):
        for i in range(1, layers + 1):
            x = x @ p[f"dense{i}.weight"] + p[f"dense{i}.bias"]
            std = jax.numpy.sqrt(p[f"norm{i}.running_var"] + 1e-6)
            x = (x - p[f"norm{i}.running_mean"]) / std * p[f"norm{i}.gamma"] + p[f"norm{i}.beta"]
            x = jax.nn.leaky_relu(x, 0.1) if i < layers else x
        return x

    return jax.jit(function)


def twin(framework, problem, dtype, device):
    """The problem's network of the framework, as minivat sees it, on a device."""
    cuda = device.name == "cuda"
    if framework.__name__ == "torch":
        if cuda and not framework.cuda.is_available():
            pytest.skip("PyTorch has no CUDA here")
        return interop.from_torch(torch_module(framework, problem, dtype, "cuda" if cuda else None))
    if cuda and framework.default_backend() != "gpu":
        pytest.skip("JAX has no CUDA here")
    return interop.from_jax(jax_function(framework, problem, dtype))


def assert_close(actual, expected, tolerance=1e-10):
    """Relative to the size of the whole array."""
    actual, expected = to_host(actual), to_host(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


# The same answers


@each_dtype
def test_the_answers_are_those_of_the_same_weights_in_minivat(framework, dtype, sharing_device):
    device = sharing_device
    problem = Problem(1)
    theirs = twin(framework, problem, dtype, device)
    problem.params = {n: device.asarray(a.astype(dtype)) for n, a in problem.params.items()}
    problem.state = {n: device.asarray(a.astype(dtype)) for n, a in problem.state.items()}
    ours = problem.network
    x, d = (device.asarray(a.astype(dtype)) for a in (problem.x, problem.d))
    z = device.asarray(problem.normal(5, 3).astype(dtype))
    labels = device.asarray(problem.labels)

    def answers(network):
        logits, jvp, vjp = vat.linearized(network, x)
        yield from (network(x), logits, jvp(d), jvp(x), vjp(z), vjp(logits))
        spectrum = curvature.spectrum(network, x, eigenvectors=2)
        u = spectrum.eigenvectors
        yield from (spectrum.eigenvalues, u[:, :, None] * u[..., None])  # no sign
        yield curvature.hessian(network, x)(d)
        choices = [PowerIteration(0), PowerIteration(3)]
        if dtype is np.float64:  # in the other, q − p is mostly rounding noise
            choices.append(PowerIteration(1, "finite-difference", xi=1e-3))
        for settings in choices:
            r, _ = vat.virtual_adversarial_perturbation(network, x, d, 4.0, settings)
            yield from (r, vat.lds(network, x, r, logits))
        yield vat.virtual_adversarial_perturbation(network, x, z, 4.0, PowerIteration(0.5))[0]
        yield vat.adversarial_perturbation(network, x, labels, 4.0)[0]
        yield vat.regularizer(network, x, [d], 4.0)[0]
        yield curvature.true_maximiser(network, x, 4.0, [d], steps=4).divergence

    for ours_answer, theirs_answer in zip(answers(ours), answers(theirs), strict=True):
        assert type(theirs_answer) is type(ours_answer)
        assert_close(theirs_answer, ours_answer, TOLERANCES[dtype])


def own_hessian(framework, function, x):
    """Each example's dense H, (N, D, D), by the framework's own second derivative of the KL."""
    if framework.__name__ == "torch":
        softmax, hessian, array = framework.log_softmax, framework.func.hessian, framework.tensor
    else:
        softmax, array = framework.nn.log_softmax, framework.numpy.asarray

        def hessian(f):
            return framework.jit(framework.hessian(f))

    def kl(r, one):
        log_p = softmax(function(one), -1)
        return (np.e**log_p * (log_p - softmax(function(one + r), -1))).sum()

    own = hessian(kl)
    h = [own(array(np.zeros_like(x[:1])), array(x[i : i + 1])) for i in range(len(x))]
    return np.stack([np.asarray(a.tolist()).reshape(2 * [x[0].size]) for a in h])


def assert_has_hessian(network, x, expected):
    """H is `expected`, by the operator and by the spectrum."""
    for i in range(len(x)):
        one = x[i : i + 1]
        assert_close(curvature.dense(curvature.hessian(network, one), one), expected[i])
    spectrum = curvature.spectrum(network, x, eigenvectors=2)
    values = np.linalg.eigvalsh(expected)[:, ::-1][:, : spectrum.eigenvalues.shape[1]]
    assert np.abs(spectrum.eigenvalues - values).max() <= 1e-10 * values.max()
    u = spectrum.eigenvectors.reshape(len(x), 2, -1)
    residual = np.einsum("nde,nke->nkd", expected, u) - values[:, :2, None] * u
    assert np.linalg.norm(residual, axis=2).max() <= 1e-9 * values.max()


@ignore_torch
def test_h_is_the_frameworks_own_second_derivative(framework):
    problem = Problem(2)
    make = torch_module if framework.__name__ == "torch" else jax_function
    function = make(framework, problem)
    network = (interop.from_torch if make is torch_module else interop.from_jax)(function)
    assert_has_hessian(network, problem.x, own_hessian(framework, function, problem.x))


def convolutional(torch):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1),
        torch.nn.BatchNorm2d(3),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 4),
    )


@ignore_torch
def test_images(torch):
    module = convolutional(torch).double().eval()
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4))
    network = interop.from_torch(module)
    assert_has_hessian(network, x, own_hessian(torch, module, x))
    best = curvature.true_maximiser(network, x, 0.1, steps=4)
    spectrum = curvature.spectrum(network, x)
    assert best.r.shape == x.shape
    assert spectrum.eigenvectors.shape == (3, 1, 2, 4, 4)
    assert (best.divergence > 0.4 * 0.01 * spectrum.eigenvalues[:, 0]).all()


def test_a_constant_network_has_no_curvature(framework):
    if framework.__name__ == "torch":
        network = interop.from_torch(lambda x: framework.zeros(len(x), 3, dtype=x.dtype))
    else:
        network = interop.from_jax(lambda x: framework.numpy.zeros((len(x), 3), x.dtype))
    x = np.ones((2, 4))
    spectrum = curvature.spectrum(network, x)
    assert not spectrum.eigenvalues.any()
    assert not spectrum.eigenvectors.any()
    assert not curvature.hessian(network, x)(x).any()


def test_operations_without_forward_mode_do(jax):
    @jax.custom_vjp
    def tanh(x):
        return jax.numpy.tanh(x)

    tanh.defvjp(lambda x: (jax.numpy.tanh(x), x), lambda x, g: (g / jax.numpy.cosh(x) ** 2,))
    with pytest.raises(TypeError):
        jax.jvp(tanh, (1.0,), (1.0,))
    x, t = np.random.default_rng(0).standard_normal((2, 4, 3))
    _, jvp, _ = interop.from_jax(tanh).linearize(x)
    assert_close(jvp(t), t / np.cosh(x) ** 2)


# Which arrays cross


LAYOUTS = {
    "transposed": lambda x: x.T,
    "reversed": lambda x: x[::-1],
    "strided": lambda x: x[:, ::2],
    "broadcast": lambda x: np.broadcast_to(x[:1, :3], (6, 3)),
    "empty": lambda x: x[:0, :3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(framework, sharing_device, layout):
    x = np.random.default_rng(0).standard_normal((6, 6))
    given = LAYOUTS[layout](sharing_device.asarray(x))
    copy = given.copy()
    network = twin(framework, Problem(3, sizes=(given.shape[1], 5)), np.float64, sharing_device)
    _, jvp, vjp = network.linearize(given)
    _, copy_jvp, copy_vjp = network.linearize(copy)
    g = network(copy)
    assert_close(network(given), g)
    assert_close(jvp(given), copy_jvp(copy))
    assert_close(vjp(g[:, ::-1]), copy_vjp(g[:, ::-1].copy()))
    assert_close(given, copy)


def test_a_read_only_array_is_taken_without_a_warning(framework):
    problem = Problem(4)
    network = twin(framework, problem, np.float64, SimpleNamespace(name="cpu"))
    problem.x.flags.writeable = False
    assert_close(network(problem.x), problem.network(problem.x))


def test_memory_is_shared(torch):
    seen = []

    def function(x):
        seen.append(2 * x)
        return seen[-1]

    network = interop.from_torch(function)
    x = np.ones((2, 3))
    assert np.shares_memory(network(x), seen[0].numpy())
    assert np.shares_memory(network.import_array(x).numpy(), x)


def test_a_module_that_works_in_place_leaves_x_alone(torch):
    network = interop.from_torch(torch.nn.ReLU(inplace=True))
    x = np.array([[1.0, -1.0]])
    logits, _, vjp = network.linearize(x)
    network(x)
    np.testing.assert_array_equal(x, [[1.0, -1.0]])
    np.testing.assert_array_equal(logits, [[1.0, 0.0]])
    np.testing.assert_array_equal(vjp(x), [[1.0, 0.0]])
    same = interop.from_torch(torch.nn.Identity())
    assert not np.shares_memory(same(x), x)


# A module is left as it was


def test_parameters_receive_no_gradient_and_nothing_is_kept(torch):
    problem = Problem(5)
    module = torch_module(torch, problem)
    network = interop.from_torch(module)
    outputs = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    def use():
        curvature.spectrum(network, problem.x)
        vat.virtual_adversarial_perturbation(network, problem.x, problem.d, 1.0)
        network(problem.x)

    use()
    assert not outputs[-1].requires_grad  # of the plain pass
    outputs.clear()
    module._forward_hooks.clear()
    before = tensors()
    use()
    assert tensors() == before
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("context", ["no_grad", "inference_mode"])
def test_it_does_not_matter_that_gradients_are_off(torch, context):
    problem = Problem(6)
    network = interop.from_torch(torch_module(torch, problem))
    with getattr(torch, context)():
        actual = curvature.spectrum(network, problem.x).eigenvalues
    assert_close(actual, curvature.spectrum(problem.network, problem.x).eigenvalues)


def test_in_training_mode_batch_norm_couples_the_examples_and_keeps_its_statistics(torch):
    problem = Problem(7, statistics="batch")
    module = torch_module(torch, problem).train()
    buffers = [buffer.clone() for buffer in module.buffers()]
    network = interop.from_torch(module)
    with pytest.raises(ValueError, match="depend on the other examples"):
        curvature.spectrum(network, problem.x)
    actual = curvature.hessian(network, problem.x)(problem.d)
    assert_close(actual, curvature.hessian(problem.network, problem.x)(problem.d))
    assert all(map(torch.equal, buffers, module.buffers()))


def test_dropout_in_training_mode_is_refused(torch):
    x = -np.ones((2, 3), np.float32)
    for module in (
        torch.nn.Dropout(0.5),
        torch.nn.RReLU(),
        lambda x: torch.nn.functional.dropout(x, 0.5),
    ):
        network = interop.from_torch(module)
        for use in (network, network.linearize):
            with pytest.raises(ValueError, match=r"random numbers.* call module.eval\(\) first"):
                use(x)
    evaluated = interop.from_torch(torch.nn.Dropout(0.5).eval())
    np.testing.assert_array_equal(evaluated(x), x)


# Mistakes


def test_only_arrays_of_floating_point_numbers_are_taken(framework):
    network = twin(framework, Problem(8), np.float64, SimpleNamespace(name="cpu"))
    x = np.ones((2, 4))
    foreign = network.import_array(x)
    for bad, given in [
        (x.tolist(), "list"),
        (x.astype(int), "ndarray of int64"),
        (x.astype(np.float16), "ndarray of float16"),
        (x.astype(">f8"), "ndarray of >f8"),
        (Tensor(x, None, (), {}, 1), "Tensor of float64"),
        (foreign, f"{type(foreign).__name__} of "),
    ]:
        for use in (network, network.linearize):
            with pytest.raises(TypeError, match="x must be a NumPy or CuPy array") as error:
                use(bad)
            assert given in str(error.value)


def test_only_logits_of_the_inputs_dtype_are_taken(framework):
    def to_float32(x):
        return x.float() if framework.__name__ == "torch" else x.astype(np.float32)

    make = interop.from_torch if framework.__name__ == "torch" else interop.from_jax
    x = np.ones((2, 3))
    for function, message in [
        (lambda x: x[:, 0], r"must return logits \(2, C\), got \(2,\)"),
        (lambda x: x[None], r"must return logits \(2, C\), got \(1, 2, 3\)"),
        (lambda x: x[:1], r"must return logits \(2, C\), got \(1, 3\)"),
        (lambda x: (x, x), r"must return logits \(2, C\), got tuple"),
        (to_float32, "must return logits of its input's dtype, .*float64, got .*float32"),
    ]:
        network = make(function)
        for use in (network, network.linearize):
            with pytest.raises(ValueError, match=message):
                use(x)


def test_the_products_want_what_belongs_to_them(framework):
    network = twin(framework, Problem(9), np.float64, SimpleNamespace(name="cpu"))
    x = np.ones((2, 4))
    logits, jvp, vjp = network.linearize(x)
    for bad in (logits, x.astype(np.float32)):
        with pytest.raises(ValueError, match=r"jvp: the tangent must have shape \(2, 4\)"):
            jvp(bad)
    for bad in (x, logits.astype(np.float32)):
        with pytest.raises(ValueError, match=r"vjp: the cotangent must have shape \(2, 3\)"):
            vjp(bad)


def test_a_module_wants_x_as_its_parameters_are(torch):
    module = torch_module(torch, Problem(10))
    with pytest.raises(ValueError, match=r"dtype of the module, torch.float64, got torch.float32"):
        interop.from_torch(module)(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"device of the module, meta, got cpu"):
        interop.from_torch(module.to("meta"))(np.ones((2, 4)))


def test_jax_without_float64_takes_no_float64(jax):
    jax.config.update("jax_enable_x64", False)
    network = interop.from_jax(lambda x: x)
    with pytest.raises(ValueError, match=r"x must be float32, got float64.*jax_enable_x64"):
        network(np.ones((2, 3)))
    assert network(np.ones((2, 3), np.float32)).dtype == np.float32


@pytest.mark.parametrize("fault", [AssertionError, BufferError, RuntimeError])
def test_what_the_framework_says_of_an_array_takes_one_line(fault):
    def refuse(x):
        raise fault("compiled without CUDA\nat line 1")

    network = interop.ForeignModel(None, None, refuse)
    with pytest.raises(ValueError, match=r"^array not accepted .*: compiled without CUDA$"):
        network(np.ones((2, 3)))


@pytest.mark.parametrize("route", curvature.ROUTES)
def test_two_routes_to_h_need_the_engine(framework, route):
    problem = Problem(11)
    network = twin(framework, problem, np.float64, SimpleNamespace(name="cpu"))
    if route.endswith("over-reverse"):
        with pytest.raises(ValueError, match="route must be 'fisher' or 'finite-difference' for"):
            curvature.hessian(network, problem.x, route=route)
    else:
        actual = curvature.hessian(network, problem.x, route=route)(problem.d)
        assert_close(actual, curvature.hessian(problem.network, problem.x)(problem.d), 1e-4)


@pytest.mark.parametrize(
    ("make", "name", "module"),
    [(interop.from_torch, "PyTorch", "torch"), (interop.from_jax, "JAX", "jax")],
)
def test_a_missing_framework_is_named(make, name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"^{make.__name__} needs {name}: pip install {module}$"):
        make(lambda x: x)
