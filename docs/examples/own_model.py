"""A function of one's own as the model: radial basis functions on two moons with eight labels.

VAT asks for no layers: a model is any function of parameters and inputs that is made of
`minivat.ops`, and params any dict of arrays. Prints the share of the 1,000 points without a label
that are wrong, without VAT and with it. Run it by `python docs/examples/own_model.py`.
"""

import numpy as np

from minivat import ops, value_and_grad, vat
from minivat.data import synthetic

EPSILON = 0.15  # the length of r_vadv; the moons' radius is 1

moons = synthetic.two_moons(seed=1)
points = np.concatenate([moons.x, moons.unlabelled])


def rbf(params, x):
    """Logits (N, 2): a weighted sum of bumps exp(-gamma |x - centre|^2)."""
    difference = ops.reshape(x, (-1, 1, 2)) - params["centres"]
    bumps = ops.exp(-ops.exp(params["log_gamma"]) * ops.sum(difference**2, axis=2))
    return bumps @ params["weights"]


def objective(params, alpha, d):
    """NLL + alpha R_vadv, eq. 8."""

    def model(x):
        return rbf(params, x)

    nll = ops.mean(ops.cross_entropy(model(moons.x), moons.y))
    r_vadv, _ = vat.regularizer(model, points, [d], EPSILON)
    return nll + alpha * r_vadv


def train(alpha, updates=200, learning_rate=0.1, momentum=0.9):
    """The trained parameters, by gradient descent with momentum."""
    rng = np.random.default_rng(1)
    params = {
        "centres": rng.choice(points, 50, replace=False),
        "weights": 0.1 * rng.standard_normal((50, 2), dtype=np.float32),
        "log_gamma": np.ones((), np.float32),
    }
    velocity = {name: np.zeros_like(array) for name, array in params.items()}
    for _ in range(updates):
        d = rng.standard_normal(points.shape, dtype=np.float32)
        _, gradient = value_and_grad(objective)(params, alpha, d)
        for name, g in gradient.items():
            velocity[name] = momentum * velocity[name] - learning_rate * g
            params[name] = params[name] + velocity[name]
    return params


for name, alpha in (("without VAT", 0.0), ("with VAT", 1.0)):
    predicted = rbf(train(alpha), moons.unlabelled).argmax(axis=1)
    print(f"{name}: {np.mean(predicted != moons.hidden_y):.1%} of the points wrong")
