"""VAT as a loop of one's own, without `Trainer`: 1,300 digits, of which 50 have a label.

Trains the same network twice, from the same weights on the same batches, without R_vadv and with
it, and prints both test errors. Run it by `python docs/examples/vat_loop.py`.
"""

import numpy as np

from minivat import data, nn, ops, value_and_grad, vat
from minivat.optim import Adam

EPSILON = 0.5  # the length of r_vadv, where pixels are in [0, 1]

digits = data.load("digits")
images = digits.train_images
labelled = data.draw_labels(digits.train_labels, 50, seed=1)
x, labels = images[labelled], digits.train_labels[labelled]
network = nn.mlp([64, 100, 100, 10], batch_norm=False)


def objective(params, alpha, unlabelled, d):
    """NLL + alpha R_vadv (eq. 8): R_vadv is the mean LDS of all images, labelled or not (eq. 7)."""

    def model(x):
        return network(params, x, {})[0]  # {}: no batch norm, so no running statistics

    nll = ops.mean(ops.cross_entropy(model(x), labels))
    r, logits = vat.virtual_adversarial_perturbation(model, unlabelled, d, EPSILON)
    return nll + alpha * ops.mean(vat.lds(model, unlabelled, r, logits))


def train(alpha, updates=500):
    """The trained parameters."""
    rng = np.random.default_rng(1)
    flat, params = nn.pack(network.init(rng)[0])  # the arrays in `params` are views into `flat`
    adam = Adam()
    moments = adam.init(flat)
    for update in range(1, updates + 1):
        unlabelled = rng.choice(images, 128, replace=False)
        d = rng.standard_normal(unlabelled.shape, dtype=np.float32)
        _, gradient = value_and_grad(objective)(params, alpha, unlabelled, d)
        adam.update(flat, nn.pack(gradient)[0], moments, update, learning_rate=0.005)
    return params


for name, alpha in (("without VAT", 0.0), ("with VAT", 1.0)):
    logits, _ = network(train(alpha), digits.test_images, {})
    wrong = np.mean(logits.argmax(axis=1) != digits.test_labels)
    print(f"{name}: {wrong:.1%} of the test images wrong")
