"""Estimators in scikit-learn's conventions: VAT for tables of data of which few rows have a target.

    model = VATClassifier().fit(X, y)  # y: classes, −1 where unknown
    model.predict(X_new)

Needs scikit-learn (`pip install 'minivat[sklearn]'`), so `import minivat` leaves this file alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, sqrt
from numbers import Real
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
except ModuleNotFoundError:
    raise ImportError(
        'minivat.sklearn needs scikit-learn: pip install "minivat[sklearn]"'
    ) from None
from sklearn.preprocessing import StandardScaler
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from . import backend, divergence, nn, objective, ops, optim, training, vat
from .parallel import map_rows
from .typing import Divergence, RawArray, is_integer
from .unlabelled import known_classes, known_only, refuse_misuse


def _integer(name: str, value: Any, low: int) -> int:
    """The parameter as an int; ValueError unless it is an integer from low."""
    if is_integer(value) and value >= low:
        return int(value)
    raise ValueError(f"{name} must be an integer from {low}, got {value!r}")


def _number(name: str, value: Any) -> float:
    """The parameter as a float; ValueError unless it is positive and finite."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < inf:
        return float(value)
    raise ValueError(f"{name} must be positive, a finite number, got {value!r}")


def _scaled(name: str, values: RawArray, **options: Any) -> tuple[StandardScaler, RawArray]:
    """A scaler fitted to the values (N, D), and these scaled; ValueError where they overflow."""
    with np.errstate(all="ignore"):
        scaler = StandardScaler(**options).fit(values)
        scaled = scaler.transform(values)
    if scaler.var_ is not None and not np.isfinite(scaler.var_).all():
        raise ValueError(
            f"{name} must be smaller: the variance of values up to {np.abs(values).max():.3g} "
            "is beyond float64"
        )
    return scaler, scaled


class _VAT(BaseEstimator):
    """What both estimators share: the parameters, the network, its training."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100, 100),
        *,
        method: str = "vat",
        epsilon: float = 0.1,
        alpha: float = 1.0,
        power_iterations: float = 1,
        direction: str = "exact",
        samples: int = 1,
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
        self.direction = direction
        self.samples = samples
        self.batch_norm = batch_norm
        self.standardize = standardize
        self.batch_size = batch_size
        self.unlabelled_batch_size = unlabelled_batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def _validated(self, X: Any, y: Any) -> tuple[RawArray, RawArray]:
        """X (N, D) and y (N,), which may still be of any dtype and have unlabelled rows."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        return X, y

    def _train(
        self,
        x: RawArray,
        labelled: RawArray,
        targets: RawArray,
        outputs: int,
        distribution: Divergence,
        entropy_weight: float = 0.0,
    ) -> None:
        """Train on all of x (N, D) and the targets of its rows `labelled` (N,), booleans."""
        count, features = x.shape
        known = int(labelled.sum())
        max_iter = _integer("max_iter", self.max_iter, 1)
        learning_rate = _number("learning_rate", self.learning_rate)
        batch_size = min(_integer("batch_size", self.batch_size, 2), known)
        second = min(_integer("unlabelled_batch_size", self.unlabelled_batch_size, 2), count)
        hidden = self.hidden_layer_sizes
        hidden = hidden if isinstance(hidden, Iterable) else [hidden]
        self.network_ = nn.mlp(
            [features, *(_integer("hidden_layer_sizes", units, 1) for units in hidden), outputs],
            batch_norm=self.batch_norm,
            output_norm=False,
        )
        regularization = self._regularization(features, entropy_weight)
        self.scaler_, x = _scaled("X", x, with_mean=self.standardize, with_std=self.standardize)
        device = backend.select_device(self.device)
        trainer = training.Trainer(
            self.network_,
            device,
            x[labelled],
            targets,
            unlabelled=x if known < count else None,
            unlabelled_batch_size=second if known < count else None,
            regularization=regularization,
            learning_rate=optim.constant_then_linear(learning_rate, max_iter // 2, max_iter),
            seed=int(check_random_state(self.random_state).randint(2**31)),
            batch_size=batch_size,
            divergence=distribution,
        )
        with np.errstate(all="ignore"):  # what is not finite is found below
            for update in range(max_iter):
                trainer.step(update)
            trainer.reestimate_statistics()
        self.params_, self.state_ = (
            {name: device.to_host(array) for name, array in arrays.items()}
            for arrays in (trainer.params, trainer.state)
        )
        if not all(np.isfinite(array).all() for array in self.params_.values()):
            raise ValueError(
                f"learning_rate must be smaller: with {learning_rate} training diverged "
                f"(on features of up to {np.abs(x).max():.3g}, scaled)"
            )
        self.n_iter_ = max_iter

    def _regularization(self, features: int, entropy_weight: float) -> objective.Regularization:
        """The method in the trainer's terms: epsilon as a norm of all the features."""
        if self.method == "mle":  # to which none of the others means anything
            return objective.Regularization("mle", entropy_weight=entropy_weight)
        # L∞ is a bound on each feature: its root mean square is reached, whatever their number.
        norm = 1.0 if self.method == "at-linf" else sqrt(features)
        try:
            power_iteration = vat.PowerIteration(self.power_iterations, self.direction)
        except ValueError as error:
            raise ValueError(str(error).replace("iterations", "power_iterations")) from None
        return objective.Regularization(
            self.method,
            _number("epsilon", self.epsilon) * norm,
            _number("alpha", self.alpha),
            power_iteration,
            samples=_integer("samples", self.samples, 1),
            entropy_weight=entropy_weight,
        )

    def _outputs(self, X: Any) -> RawArray:
        """The network's outputs (N, C) for the rows of X, with the statistics kept by training."""
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        x = self.scaler_.transform(x)

        def outputs(x: RawArray) -> Any:
            return self.network_(self.params_, x, self.state_, statistics="running")[0]

        return map_rows(outputs, x)


class VATClassifier(ClassifierMixin, _VAT):
    """A multilayer perceptron trained with VAT on few labels and many rows without one.

    Computes in the dtype of X, float32 or float64.

    Parameters
    ----------
    hidden_layer_sizes : units of the hidden layers, ReLU; an integer for a single one.
    method : "vat"; or, to compare, "rpt" (random perturbations), "at-l2", "at-linf" (adversarial
        training, which needs labels) or "mle" (only the likelihood).
    epsilon : size of the perturbation as a root mean square over the features: its L2 norm is
        epsilon · √D for D features, its L∞ norm (at-linf) epsilon. With `standardize` that is in
        standard deviations. "mle" has none.
    alpha : weight of the method's term, R_vadv for "vat"; eq. 8.
    power_iterations : K of "vat", an integer from 0, or 0.5 for half an iteration; eq. 11. K = 0 is
        "rpt". direction : how "vat" computes H d, "exact" or "finite-difference", the paper's.
    samples : perturbations of each row that an update averages, for "vat" and "rpt".
    entropy_weight : weight of the conditional entropy on all rows, eq. 18, whatever the method; 1
        in the paper's VAT+EntMin.
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

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100, 100),
        *,
        method: str = "vat",
        epsilon: float = 0.1,
        alpha: float = 1.0,
        power_iterations: float = 1,
        direction: str = "exact",
        samples: int = 1,
        entropy_weight: float = 0.0,
        batch_norm: bool = False,
        standardize: bool = True,
        batch_size: int = 64,
        unlabelled_batch_size: int = 256,
        learning_rate: float = 0.005,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ):
        super().__init__(
            hidden_layer_sizes,
            method=method,
            epsilon=epsilon,
            alpha=alpha,
            power_iterations=power_iterations,
            direction=direction,
            samples=samples,
            batch_norm=batch_norm,
            standardize=standardize,
            batch_size=batch_size,
            unlabelled_batch_size=unlabelled_batch_size,
            learning_rate=learning_rate,
            max_iter=max_iter,
            random_state=random_state,
            device=device,
        )
        self.entropy_weight = entropy_weight

    def fit(self, X: Any, y: Any) -> VATClassifier:
        """Train on X (N, D) and the classes y (N,), −1 for rows whose class is not known.

        Classes may be integers or strings; next to strings, −1 needs an array of dtype object. As
        in scikit-learn's own semi-supervised classifiers −1 is never a class.
        Raises ValueError for data and parameters that do not fit, where fewer than two classes are
        known, and inside a meta-estimator that makes a class of −1 (Voting, Bagging, Stacking).
        """
        refuse_misuse()
        X, y = self._validated(X, y)
        labelled, known = known_classes(y)
        assert_all_finite(known, input_name="y")
        try:
            if len(known):
                check_classification_targets(known)
            self.classes_, targets = np.unique(known, return_inverse=True)
        except TypeError as error:  # they cannot be sorted
            kinds = ", ".join(sorted({type(each).__name__ for each in known}))
            raise ValueError(
                f"y must hold classes of one type, and -1 for the unlabelled, got {kinds}"
            ) from error
        if len(self.classes_) < 2:
            raise ValueError(
                "y must hold two classes at least besides -1, which marks the unlabelled, "
                f"got {self.classes_.tolist()}"
            )
        entropy_weight = self.entropy_weight
        if not isinstance(entropy_weight, Real) or not 0 <= float(entropy_weight) < inf:
            raise ValueError(f"entropy_weight must be 0 or more, got {entropy_weight!r}")
        self._train(
            X,
            labelled,
            targets,
            len(self.classes_),
            divergence.categorical,
            float(entropy_weight),
        )
        return self

    def predict_proba(self, X: Any) -> RawArray:
        """p(y|x) for the rows of X and the classes in `classes_`, (N, classes)."""
        refuse_misuse()
        return ops.stop_gradient(ops.softmax(self._outputs(X)))

    def predict(self, X: Any) -> RawArray:
        """The likeliest class of each row of X, (N,)."""
        refuse_misuse()
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy on the rows of X whose class y is known, the share of right ones.

        Rows with −1 in y are left out, so that GridSearchCV and cross_val_score may be given
        unlabelled rows, too; with a scorer by name ("accuracy"), which would count them as wrong,
        `predict` raises ValueError. Strings next to −1 they cannot stratify: give them
        cv=KFold(shuffle=True).
        Raises ValueError where no class is known.
        """
        known, classes = known_classes(column_or_1d(y))
        X, sample_weight = known_only(known, X, sample_weight)
        return super().score(X, classes, sample_weight)


class VATRegressor(RegressorMixin, _VAT):
    """A multilayer perceptron for regression, trained with VAT by the Gaussian divergence.

    The outputs are means of Gaussians of variance 1 in units of the targets' standard deviation
    (they are standardised inside), for the squared error and for the LDS alike.
    Parameters are those of `VATClassifier` without entropy_weight: the entropy is constant here.

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
        X, y = self._validated(X, y)
        y = check_array(y, ensure_2d=False, dtype=np.float64, ensure_all_finite="allow-nan")
        labelled = ~np.isnan(y)
        known = y[labelled, None]
        if len(known) < 2:
            raise ValueError(
                f"y must hold two targets at least besides NaN, which marks the unlabelled, "
                f"got {len(known)} (n_samples = {len(y)})"
            )
        # In float64, whatever X is: large targets are alike in float32.
        self.target_scaler_, targets = _scaled("y", known)
        self._train(X, labelled, targets.astype(X.dtype), 1, divergence.gaussian())
        return self

    def predict(self, X: Any) -> RawArray:
        """The mean of p(y|x) for each row of X, (N,) float64."""
        outputs = self._outputs(X).astype(np.float64)
        return self.target_scaler_.inverse_transform(outputs)[:, 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² on the rows of X whose target y is known, the share of variance that is explained.

        Rows with NaN in y are left out, as `VATClassifier.score` leaves out its own. Unshuffled
        folds may hold no others: where those come last, GridSearchCV needs KFold(shuffle=True).
        Raises ValueError where no target is known.
        """
        y = column_or_1d(check_array(y, ensure_2d=False, ensure_all_finite="allow-nan"))
        return super().score(*known_only(~np.isnan(y), X, y, sample_weight))
