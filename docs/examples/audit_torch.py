"""How well one power iteration finds the worst direction of a PyTorch model, against exact spectra.

Trains a small module on scikit-learn's digits, wraps it with `minivat.interop`, computes every
eigenvalue of H (eq. 9) for each test image, and prints what share of the largest is found along a
random direction, after one exact iteration, and after one with the paper's finite difference. Run
it by `python docs/examples/audit_torch.py`; it needs PyTorch.
"""

import numpy as np
import torch

from minivat import curvature, data, interop, vat

EPSILON = 0.5  # the length of r_vadv, where pixels are in [0, 1]

digits = data.load("digits")
images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)

torch.manual_seed(1)
module = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
optimizer = torch.optim.Adam(module.parameters(), lr=0.005)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(module(images), labels).backward()
    optimizer.step()

network = interop.from_torch(module.eval())  # takes and returns NumPy arrays
x = digits.test_images
wrong = np.mean(network(x).argmax(axis=1) != digits.test_labels)
print(f"{wrong:.1%} of the test images wrong")

eigenvalues = curvature.spectrum(network, x).eigenvalues  # (images, classes), falling
print(f"median of lambda_2 / lambda_1: {np.median(eigenvalues[:, 1] / eigenvalues[:, 0]):.2f}")

exact = curvature.hessian(network, x)  # d ↦ H d for each image
differences = curvature.hessian(network, x, route="finite-difference", xi=1e-6)
d = np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
print("median of d H d / lambda_1:")
for name, direction in (
    ("a random direction", d),
    ("one iteration, exact", exact(d)),
    ("one iteration, xi = 1e-6 in float32", differences(d)),
):
    captured = curvature.captured_curvature(exact, vat.unit(direction), eigenvalues[:, 0])
    print(f"  {name}: {np.median(captured):.1%}")

r, logits = vat.virtual_adversarial_perturbation(network, x, d, EPSILON)
best = curvature.true_maximiser(network, x, EPSILON, starts=[r])
share = np.mean(vat.lds(network, x, r, logits)) / np.mean(best.divergence)
print(f"at epsilon = {EPSILON}, r_vadv reaches {share:.1%} of the largest divergence found")
