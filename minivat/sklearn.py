"""Estimators in scikit-learn's conventions: VAT for tables of data of which few rows have a target.

    model = VATClassifier().fit(X, y)  # y: classes, −1 where unknown
    model.predict(X_new)

Needs scikit-learn (`pip install 'minivat[sklearn]'`), so `import minivat` leaves this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from . import backend, divergence, nn, ops, optim, training, vat

UNLABELLED = -1


class _VAT(BaseEstimator):
    """What both estimators share: the parameters, the network, its training."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100, 100),
        *,
        method: str = "vat",
        epsilon: float = 0.1,
        alpha: float = 1.0,
        power_iterations: int = 1,
        batch_norm: bool = False,
        standardize: bool = True,
        batch_size: int = 64,
        unlabelled_batch_size: int = 256,
        learning_rate: float = 0.005,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.method = method
        self.epsilon = epsilon
        self.alpha = alpha
        self.power_iterations = power_iterations
        self.batch_norm = batch_norm
        self.standardize = standardize
        self.batch_size = batch_size
        self.unlabelled_batch_size = unlabelled_batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def _train(
        self,
        x: np.ndarray,
        labelled: np.ndarray,
        targets: np.ndarray,
        outputs: int,
        distribution: vat.Divergence,
    ) -> None:
        """Train on all of x (N, D) and the targets of its rows `labelled` (N,), booleans."""
        if not isinstance(self.max_iter, int | np.integer) or self.max_iter < 1:
            raise ValueError(f"max_iter must be an integer from 1, got {self.max_iter!r}")
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        count, features = x.shape
        known = int(labelled.sum())
        self.network_ = nn.mlp(
            [features, *self.hidden_layer_sizes, outputs],
            batch_norm=self.batch_norm,
            output_norm=False,
        )
        self.scaler_ = StandardScaler(with_mean=self.standardize, with_std=self.standardize).fit(x)
        x = self.scaler_.transform(x)
        sizes: dict[str, Any] = {"batch_size": min(self.batch_size, known)}
        if known < count:
            sizes["unlabelled_batch_size"] = min(self.unlabelled_batch_size, count)
        device = backend.select_device(self.device)
        trainer = training.Trainer(
            self.network_,
            device,
            x[labelled],
            targets,
            unlabelled=x if known < count else None,
            regularization=training.Regularization(
                self.method,
                self.epsilon * sqrt(features),
                self.alpha,
                self.power_iterations,
            ),
            learning_rate=optim.constant_then_linear(
                self.learning_rate, self.max_iter // 2, self.max_iter
            ),
            seed=int(check_random_state(self.random_state).randint(2**31)),
            divergence=distribution,
            **sizes,
        )
        with np.errstate(all="ignore"):  # what is not finite is found below
            for update in range(self.max_iter):
                trainer.step(update)
            trainer.reestimate_statistics()
        self.params_, self.state_ = (
            {name: device.to_host(array) for name, array in arrays.items()}
            for arrays in (trainer.params, trainer.state)
        )
        if not all(np.isfinite(array).all() for array in self.params_.values()):
            raise ValueError(
                f"learning_rate must be smaller: with {self.learning_rate} training diverged"
            )
        self.n_iter_ = self.max_iter

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs (N, C) for the rows of X, with the statistics kept by training."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        x = self.scaler_.transform(x)
        return self.network_(self.params_, x, self.state_, statistics="running")[0]


class VATClassifier(ClassifierMixin, _VAT):
    """A multilayer perceptron trained with VAT on few labels and many rows without one.

    Computes in the dtype of X, float32 or float64.

    Parameters
    ----------
    hidden_layer_sizes : units of the hidden layers, ReLU.
    method : "vat"; or, to compare, "rpt" (random perturbations), "at-l2", "at-linf" (adversarial
        training, which needs labels) or "mle" (nothing but the likelihood).
    epsilon : size of the perturbation as a root mean square over the features: its L2 norm is
        epsilon · √D for D features. With `standardize` that is in standard deviations.
    alpha : weight of R_vadv, eq. 8. power_iterations : K, 1 or more; eq. 11.
    batch_norm : whether the hidden layers have batch norm. It can help much and it can hurt: with
        a large epsilon a network learns to tell perturbed batches by their statistics.
    standardize : whether each feature is shifted and scaled to mean 0 and variance 1 over all rows
        first. Without it, bring features to comparable scales yourself.
    batch_size, unlabelled_batch_size : rows in an update's two batches, at most; the second is
        drawn from all rows, with and without a target.
    learning_rate : Adam's. It is constant for half of the updates, then falls linearly to 0.
    max_iter : number of updates (all of them are made).
    random_state : of weights, batches and perturbations.
    device : "cpu", "cuda" or "auto", for training. The fitted estimator lives on the host.

    Attributes
    ----------
    classes_ : the classes, sorted. n_features_in_, feature_names_in_ : as everywhere. n_iter_ :
    updates made. network_, params_, state_, scaler_ : the network, its arrays and the scaling.
    """

    def fit(self, X: Any, y: Any) -> VATClassifier:
        """Train on X (N, D) and the classes y (N,), −1 for rows whose class is not known.

        Classes may be integers or strings; next to strings, −1 needs an array of dtype object. As
        in scikit-learn's own semi-supervised classifiers −1 is never a class.
        Raises ValueError for data and parameters that do not fit, and where fewer than two classes
        are known.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2)
        labelled = np.ones(len(y), bool) if y.dtype.kind in "US" else y != UNLABELLED
        known = y[labelled]
        if len(known):
            check_classification_targets(known)
        self.classes_, targets = np.unique(known, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "y must hold two classes at least besides -1, which marks the unlabelled, "
                f"got {self.classes_.tolist()}"
            )
        self._train(X, labelled, targets, len(self.classes_), divergence.categorical)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(y|x) for the rows of X and the classes in `classes_`, (N, classes)."""
        return ops.softmax(self._outputs(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row of X, (N,)."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(axis=1)]


class VATRegressor(RegressorMixin, _VAT):
    """A multilayer perceptron for regression, trained with VAT by the Gaussian divergence.

    The outputs are means of Gaussians of variance 1 in units of the targets' standard deviation
    (they are standardised inside), for the squared error and for the LDS alike.
    Parameters are those of `VATClassifier`.

    Attributes
    ----------
    n_features_in_, feature_names_in_ : as everywhere. n_iter_ : updates made. network_, params_,
    state_, scaler_, target_scaler_ : the network, its arrays and both scalings.
    """

    def fit(self, X: Any, y: Any) -> VATRegressor:
        """Train on X (N, D) and the targets y (N,), NaN for rows whose target is not known.

        Raises ValueError for data and parameters that do not fit, and where fewer than two targets
        are known.
        """
        if y is None:
            raise ValueError("VATRegressor requires y to be passed, but the target y is None")
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        y = check_array(y, ensure_2d=False, dtype=X.dtype, ensure_all_finite="allow-nan")
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        labelled = ~np.isnan(y)
        known = y[labelled, None]
        if len(known) < 2:
            raise ValueError(
                f"y must hold two targets at least besides NaN, which marks the unlabelled, "
                f"got {len(known)} (n_samples = {len(y)})"
            )
        self.target_scaler_ = StandardScaler().fit(known)
        targets = self.target_scaler_.transform(known)
        self._train(X, labelled, targets, 1, divergence.gaussian())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The mean of p(y|x) for each row of X, (N,)."""
        outputs = self._outputs(X)
        return self.target_scaler_.inverse_transform(outputs)[:, 0]
