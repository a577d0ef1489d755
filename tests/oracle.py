"""The paper's quantities in plain NumPy and float64, with no engine: what the tests compare with.

Everything here is analytic away from kinks and takes complex numbers, so derivatives come from
complex steps: Im f(x + ih) / h, exact to rounding for h = 1e-200.
"""

import numpy as np

STEP = 1e-200


def network(params, x, state=None, noise=None, slope=0.0, epsilon=1e-6):
    """Logits of `nn.mlp`'s network; batch statistics where state is None, else running ones.

    slope: of the leaky ReLU; None: tanh.
    """
    noise = noise or {}
    layers = sum(name.startswith("dense") and name.endswith("weight") for name in params)
    for i in range(1, layers + 1):
        x = x @ params[f"dense{i}.weight"] + params[f"dense{i}.bias"]
        if f"norm{i}.gamma" in params:
            if state is None:
                mean, var = batch_statistics(x)
            else:
                mean, var = state[f"norm{i}.running_mean"], state[f"norm{i}.running_var"]
            x = (x - mean) / np.sqrt(var + epsilon)
            x = x * params[f"norm{i}.gamma"] + params[f"norm{i}.beta"]
        if i < layers:
            x = x + noise.get(f"noise{i}", 0.0)
            x = np.tanh(x) if slope is None else np.where(x.real > 0, x, slope * x)
            x = x * noise.get(f"dropout{i}", 1.0)
    return x


def batch_statistics(x):
    """Mean and biased variance over the batch."""
    mean = x.mean(axis=0)
    return mean, ((x - mean) ** 2).mean(axis=0)


def log_softmax(z):
    z = z - z.real.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def kl(p_logits, q_logits):
    """KL(p ‖ q) for each example."""
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def cross_entropy(logits, labels):
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def entropy(logits):
    """−Σ p log p for each example."""
    log_p = log_softmax(logits)
    return -(np.exp(log_p) * log_p).sum(axis=-1)


def unit(d):
    """Rows of length one."""
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def gradient(f, x):
    """The gradient of a scalar function of an array, entry by entry."""
    result = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[i] += 1j * STEP
        result[i] = f(moved).imag / STEP
    return result


def jacobian(f, x):
    """∂f/∂x as a matrix (f.size, x.size)."""
    columns = []
    for i in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[i] += 1j * STEP
        columns.append(f(moved).imag.ravel() / STEP)
    return np.stack(columns, axis=1)


def fisher(logits):
    """F of a whole batch, block-diagonal (N C, N C), with blocks diag p − p pᵀ."""
    n, c = logits.shape
    result = np.zeros((n, c, n, c))
    for i, p in enumerate(np.exp(log_softmax(logits))):
        block = -np.outer(p, p)
        # p (1 − p), with 1 − p as the sum of the others, for p very close to 1.
        np.fill_diagonal(block, p * ((1 - np.eye(c)) @ p))
        result[i, :, i, :] = block
    return result.reshape(n * c, n * c)


def hessian(f, x):
    """The dense H = Jᵀ F J of the batch x, (N D, N D)."""
    j = jacobian(f, x)
    return j.T @ fisher(f(x)) @ j
