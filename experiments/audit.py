"""What one power iteration really finds: exact curvature of two trained networks, measured.

    python -m experiments.audit

On the test images, for networks trained without VAT and with it: the spectrum of every image's H
over training; what the directions of K power iterations capture of it, exact and by finite
differences; and how far D at r_vadv is from the true maximum on the ball, ε by ε. The networks are
those of finished runs of `make mnist-sup` and `make table1`; where there are none, shorter ones are
trained first. Measured parts are kept, so the command goes on where it was stopped. The last lines
written are a page with figures, from audit.json alone.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments import audit_page, audit_parts, common, jobs, mnist_sup
from experiments.lab import runs
from minivat import backend, data, training, vat

ROWS = {"mle": "mle", "vat": "vat-exact"}  # of Table 1
STAGES = (0, 600, 6_000)
UPDATES = 60_000
EPSILONS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0)
EPSILONS_AGAIN = (0.1, 1.0, 2.0)  # on other seeds
CHUNK = 500


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    for method in ROWS:
        parser.add_argument(
            f"--{method}",
            nargs="+",
            type=Path,
            metavar="RUN",
            help=f"finished runs with --method {method}: the first is audited, the others, of "
            "other seeds, show what holds again (default: those of --seed and of the next "
            "seed in runs/mnist_sup or runs/table1)",
        )
    for flag, low, default, text in (
        ("--seed", 0, 1, "of the runs and of the random directions"),
        ("--images", 1, None, "test images, evenly spread (default: all)"),
        ("--updates", 1, 6_000, "of the runs that are trained where none are finished"),
        ("--jobs", 1, 2, "runs, or chunks of images, at once, each on one thread"),
    ):
        common.add_count(parser, flag, low, default, text)
    parser.add_argument(
        "--stages",
        nargs="*",
        type=common.integer(0),
        default=STAGES,
        metavar="N",
        help=f"updates after which spectra are taken, too (default: {' '.join(map(str, STAGES))})",
    )
    common.add_device_arguments(parser)
    parser.add_argument("--data", default="auto", choices=["auto", "mnist", "digits"])
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the page (default: by data and images)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs", "audit"),
        metavar="DIR",
        help="folder of measured parts and of networks trained here (default: runs/audit)",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure all parts again")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    return parser


# Which networks ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Audited:
    """A network to audit.

    folder: of its finished run; None for the network that a run with these settings begins with.
    role: "first" is audited in full, "again" in less detail, "stage" by its spectra only.
    """

    label: str
    role: str
    updates: int
    settings: dict[str, Any]
    folder: Path | None


def finished(folder: Path, method: str, dataset: data.Dataset) -> dict[str, Any]:
    """result.json of a finished run of that method on these data; RunError for another one."""
    result = runs.read_json(folder / "result.json")
    if result.get("method") != method:
        raise runs.RunError(f"{folder} holds a run of {result.get('method')}, not of {method}")
    if result["data"] != {"name": dataset.name, "checksums": dataset.checksums}:
        raise runs.RunError(f"{folder} holds a run on other data than these of {dataset.name}")
    return result


def default_runs(method: str, dataset: str, seed: int) -> list[Path]:
    """The finished runs of this seed and, after it, of the next; [] without the first."""
    found = []
    for each in (seed, seed + 1):
        name = f"{ROWS[method]}-seed{each}"
        places = [Path("runs", "mnist_sup", f"{dataset}-{name}")]
        places += [Path("runs", "table1", name)] if dataset == "mnist" else []
        found.append(next((p for p in places if (p / "result.json").exists()), None))
    return [folder for folder in found if folder is not None] if found[0] is not None else []


def settings_arguments(settings: dict[str, Any], updates: int) -> list[str]:
    """The command line of a run with these settings, cut off after so many updates."""
    implied = ("network", "updates", "evaluate_every", "checkpoint_every")
    kept = {name: value for name, value in settings.items() if name not in implied}
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in kept.items()]
    return [*(each for flag in flags for each in flag), "--updates", str(updates)]


def trained(todo: dict[str, list[str]], folder: Path, at_once: int) -> dict[str, Path]:
    """The folders of these runs of mnist_sup, those that are not finished trained first."""
    missing = {
        label: ["experiments.mnist_sup", *arguments]
        for label, arguments in todo.items()
        if not (folder / label / "result.json").exists()
    }
    jobs.run_all(missing, folder, at_once)
    return {label: folder / label for label in todo}


def networks_to_audit(args: Any, dataset: data.Dataset, say: Callable[[str], Any]) -> list[Audited]:
    """All networks, those of earlier stages first; trains what is missing."""
    shared = ["--data", dataset.name, *common.device_arguments(args)]
    if args.data_dir is not None and dataset.name != "digits":
        shared += ["--data-dir", args.data_dir]
    given = [method for method in ROWS if getattr(args, method)]
    if len(given) == 1:
        raise runs.RunError("--mle and --vat go together: give both or neither")
    folders = {
        method: getattr(args, method) or default_runs(method, dataset.name, args.seed)
        for method in ROWS
    }
    if missing := [method for method in ROWS if not folders[method]]:
        say(f"no finished run of {' and '.join(missing)}: training for {args.updates} updates")
        brief = ["--seed", str(args.seed), "--updates", str(args.updates), *shared]
        todo = {
            f"{dataset.name}-{method}-seed{args.seed}-{args.updates}-updates": [
                *common.row_arguments(ROWS[method]),
                *brief,
            ]
            for method in ROWS
        }
        found = trained(todo, args.work / "networks", args.jobs)
        folders = {method: [folder] for method, folder in zip(ROWS, found.values(), strict=True)}
    full, again = [], []
    for method, places in folders.items():
        for folder in places:
            settings = finished(folder, method, dataset)["settings"]
            first = folder == places[0]
            label = method if first else f"{method}-seed{settings['seed']}"
            role = "first" if first else "again"
            group = full if first else again
            group.append(Audited(label, role, settings["updates"], settings, folder))
    labels = [each.label for each in (*full, *again)]
    if len(set(labels)) < len(labels):
        raise runs.RunError("--mle and --vat must each name runs of different seeds")
    return [*stages(args, full, shared, dataset.name), *full, *again]


def stages(args: Any, full: list[Audited], shared: list[str], dataset: str) -> list[Audited]:
    """The networks that these runs were after fewer updates, by shorter runs of the same settings.

    What a run does at an update depends on the update's number only, so these are the same.
    """
    found = {
        f"{dataset}-{each.label}-seed{each.settings['seed']}-{updates}-updates": Audited(
            f"{each.label}-{updates}", "stage", updates, each.settings, None
        )
        for each in full
        for updates in sorted(set(args.stages))
        if updates < each.updates
    }
    todo = {
        name: [*settings_arguments(each.settings, each.updates), *shared]
        for name, each in found.items()
        if each.updates > 0
    }
    folders = trained(todo, args.work / "networks", args.jobs)
    return [dataclasses.replace(each, folder=folders.get(name)) for name, each in found.items()]


def restored(audited: Audited, dataset: data.Dataset, device: backend.Device) -> training.Trainer:
    """The run's trainer as its result was evaluated, or before any update."""
    settings = audited.settings
    images, labels, _, _ = common.hold_out(dataset, settings["validation"], settings["seed"])
    trainer = mnist_sup.make_trainer(settings, device, images, labels)
    if audited.folder is not None:
        checkpoint = runs.read_checkpoint(audited.folder / "checkpoint.npz")
        return common.restored(trainer, checkpoint, device)
    trainer.reestimate_statistics()
    return trainer


# Measuring ---------------------------------------------------------------------------------------

Measure = Callable[[vat.Model, Any, Any, Any], audit_parts.Found]


@dataclasses.dataclass(frozen=True)
class Part:
    """What is measured at once: of one network, in one dtype, into one file."""

    network: Audited
    name: str
    dtype: str
    measure: Measure

    @property
    def file(self) -> str:
        return f"{self.network.label}-{self.name}-{self.dtype}.npz"


def precision(epsilon: float) -> tuple[str, int]:
    """dtype, and steps of the ascent: D below about 1e-4 is rounding noise in float32."""
    return ("float64", 8) if epsilon < 1 else ("float32", 16)


def parts_of(network: Audited) -> Iterator[Part]:
    """All that is measured of a network, by its role."""
    yield Part(network, "spectra", "float64", lambda net, x, d, z: audit_parts.spectra(net, x))
    if network.role == "stage":
        return
    xis = audit_parts.XIS if network.role == "first" else ()
    for dtype in ("float64", "float32"):
        measure = functools.partial(audit_parts.directions, xis=xis)
        yield Part(network, "directions", dtype, measure)
    for epsilon in EPSILONS if network.role == "first" else EPSILONS_AGAIN:
        dtype, steps = precision(epsilon)
        measure = functools.partial(audit_parts.perturbations, epsilon=epsilon, steps=steps)
        yield Part(network, f"epsilon{epsilon:g}", dtype, measure)


def measured(
    part: Part,
    network: vat.Network,
    images: np.ndarray,
    device: backend.Device,
    seed: int,
    at_once: int,
    done: Callable[[int], Any],
) -> audit_parts.Found:
    """The part, chunk by chunk; `done` is told the number of images of each."""
    classes = network(device.asarray(images[:1], part.dtype)).shape[1]

    def chunk(start: int) -> audit_parts.Found:
        x = images[start : start + CHUNK]
        draws = (
            backend.host_generator(seed, f"audit {purpose}", start).standard_normal(
                (len(x), size), dtype=np.float32
            )
            for purpose, size in (("directions", x.shape[1]), ("half", classes))
        )
        found = part.measure(network, *(device.asarray(a, part.dtype) for a in (x, *draws)))
        done(len(x))
        return found

    with ThreadPoolExecutor(at_once) as pool:
        chunks = list(pool.map(chunk, range(0, len(images), CHUNK)))
    return {name: np.concatenate([c[name] for c in chunks], axis=-1) for name in chunks[0]}


def read_part(path: Path) -> audit_parts.Found:
    """What `measure_all` wrote, as float64; RunError where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float64) for name in file.files}
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise runs.RunError(f"{path} is damaged: remove it to measure this part again") from error


def measure_all(
    args: Any,
    parts: Sequence[Part],
    dataset: data.Dataset,
    images: np.ndarray,
    device: backend.Device,
    work: Path,
) -> None:
    """Measure the parts that have no file yet."""
    import threadpoolctl
    from tqdm import tqdm

    missing = [part for part in parts if not (work / part.file).exists()]
    at_once = args.jobs if device.name == "cpu" else 1
    wait = 0.1 if sys.stderr.isatty() else 30.0
    label, trainer = None, None
    with (
        threadpoolctl.threadpool_limits(1 if device.name == "cpu" else None),
        tqdm(
            total=len(missing) * len(images),
            unit=" images",
            mininterval=wait,
            disable=args.quiet or not missing,
        ) as bar,
    ):
        for part in missing:
            if label != part.network.label:
                label, trainer = part.network.label, restored(part.network, dataset, device)
            bar.set_description(f"{label} {part.name} {part.dtype}", refresh=False)
            network = common.trained_network(
                mnist_sup.build(part.network.settings), trainer.arrays, device, part.dtype
            )
            found = measured(part, network, images, device, args.seed, at_once, bar.update)
            if part.name == "spectra":
                error = trainer.error(dataset.test_images, dataset.test_labels)
                found["test_error"] = np.array(error)
            runs.replace_file(work / part.file, lambda file, found=found: np.savez(file, **found))


# Numbers -----------------------------------------------------------------------------------------


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean and five quantiles; all 0 of no values."""
    values = values if values.size else np.zeros(1)
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    names = ("p5", "p25", "median", "p75", "p95")
    return {"mean": float(np.mean(values)), **dict(zip(names, quantiles.tolist(), strict=True))}


def distribution(values: np.ndarray) -> dict[str, Any]:
    """The summary, and all percentiles from 0 to 100; all 0 of no values."""
    values = values if values.size else np.zeros(1)
    percentiles = np.quantile(values, np.linspace(0, 1, 101)).tolist()
    return {**summary(values), "percentiles": percentiles}


def effective_rank(eigenvalues: np.ndarray) -> np.ndarray:
    """exp of the entropy of the eigenvalues (C, N) as shares of their sum, (N,); Roy, Vetterli."""
    shares = eigenvalues / eigenvalues.sum(axis=0)
    return np.exp(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=0))


def spectra_numbers(found: audit_parts.Found) -> dict[str, Any]:
    """Of λ₁, and of the spectrum's shape where λ₁ > 0."""
    eigenvalues = found["eigenvalues"]
    largest = np.sort(eigenvalues[0])[-max(1, eigenvalues.shape[1] // 20) :]
    positive = eigenvalues[:, eigenvalues[0] > 0]
    return {
        "test_error": float(found["test_error"]),
        "share_of_zero_hessians": float(np.mean(eigenvalues[0] == 0)),
        "lambda1": distribution(eigenvalues[0]),
        "share_of_largest": float(largest.sum() / eigenvalues[0].sum()),
        "ratio": distribution(positive[1] / positive[0]),
        "share_of_large_ratios": float(np.mean(positive[0] > 10 * positive[1])),
        "effective_rank": distribution(effective_rank(positive)),
        "rank": summary(np.sum(positive > 0, axis=0)),
        "doubt": summary(found["doubt"]),
        "rank_correlation_of_lambda1_with_doubt": float(
            stats.spearmanr(eigenvalues[0], found["doubt"]).statistic
        ),
    }


def directions_numbers(found: audit_parts.Found) -> dict[str, Any]:
    """Of captured curvature and alignment, by direction."""
    return {
        name: {"captured": summary(captured), "alignment": summary(alignment)}
        for name, (captured, alignment) in found.items()
    }


def perturbations_numbers(found: audit_parts.Found, epsilon: float) -> dict[str, Any]:
    """Of D and of flips, by direction and sign, beside the true maximum and the quadratic picture.

    The drawn sign is the one that VAT meets; the better one is that of the larger D.
    """
    most, flipped = found[audit_parts.TRUE]
    quadratic = 0.5 * epsilon**2 * found["lambda1"]
    some = quadratic > 0
    reached = found["starts"] >= 0.99 * most
    towards, towards_flips = found[audit_parts.CLASS]
    numbers: dict[str, Any] = {
        "towards_a_class": summary(towards),
        "towards_a_class_flips": float(towards_flips.mean()),
        "towards_a_class_over_maximum": summary(towards[most > 0] / most[most > 0]),
        "quadratic": summary(quadratic),
        "maximum": summary(most),
        "maximum_flips": float(flipped.mean()),
        "maximum_over_quadratic": summary(most[some] / quadratic[some]),
        "reached_from_u1": float(np.mean(reached[:2].any(axis=0))),
        "reached_from_all_starts": float(np.mean(reached.all(axis=0))),
        "directions": {},
    }
    for name in found:
        if name in ("lambda1", "starts", audit_parts.CLASS, audit_parts.TRUE):
            continue
        (drawn, drawn_flips), (other, other_flips) = found[name]
        better = np.maximum(drawn, other)
        numbers["directions"][name] = {
            "drawn": summary(drawn),
            "better": summary(better),
            "drawn_flips": float(drawn_flips.mean()),
            "better_flips": float(np.where(drawn >= other, drawn_flips, other_flips).mean()),
            "drawn_over_quadratic": summary(drawn[some] / quadratic[some]),
            "better_over_quadratic": summary(better[some] / quadratic[some]),
            "drawn_over_maximum": summary(drawn[most > 0] / most[most > 0]),
            "better_over_maximum": summary(better[most > 0] / most[most > 0]),
            "sign_ratio": summary(np.minimum(drawn, other)[better > 0] / better[better > 0]),
        }
    return numbers


def numbers(parts: Sequence[Part], work: Path) -> dict[str, Any]:
    """All parts' numbers, by network and then by what was measured."""
    networks: dict[str, Any] = {}
    for part in parts:
        found, network = read_part(work / part.file), part.network
        entry = networks.setdefault(
            network.label,
            {
                "role": network.role,
                "method": network.settings["method"],
                "seed": network.settings["seed"],
                "updates": network.updates,
                "settings": network.settings,
                "directions": {},
                "perturbations": {},
            },
        )
        if part.name == "spectra":
            entry["spectra"] = spectra_numbers(found)
        elif part.name == "directions":
            entry["directions"][part.dtype] = directions_numbers(found)
        else:
            epsilon = float(part.name.removeprefix("epsilon"))
            entry["perturbations"][f"{epsilon:g}"] = {
                "dtype": part.dtype,
                "steps": precision(epsilon)[1],
                **perturbations_numbers(found, epsilon),
            }
    return networks


# The command -------------------------------------------------------------------------------------


def name_of(args: Any, dataset: str, updates: int) -> str:
    """audit, and what makes it another one than that of the paper's runs and the whole test set."""
    name = "audit"
    if (dataset, updates) != ("mnist", UPDATES):
        name += f"-{dataset}-{updates}-updates"
    name += f"-{args.images}-images" if args.images is not None else ""
    return name + (f"-seed{args.seed}" if args.seed != 1 else "")


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the numbers, the figures and the page; the exit code."""
    args = parser().parse_args(argv)
    device = backend.select_device(args.device, args.tf32)
    dataset = data.load(args.data, args.data_dir)
    say = (lambda text: None) if args.quiet else functools.partial(print, file=sys.stderr)
    if args.images is not None and args.images > len(dataset.test_images):
        raise runs.RunError(
            f"--images {args.images} is too many: {dataset.name} has "
            f"{len(dataset.test_images)} test images"
        )
    total = args.images or len(dataset.test_images)
    images = dataset.test_images[:: len(dataset.test_images) // total][:total]
    networks = networks_to_audit(args, dataset, say)
    name = name_of(args, dataset.name, max(each.updates for each in networks))
    work = args.work / name
    config = {
        "settings": {
            "seed": args.seed,
            "images": total,
            "networks": {each.label: each.settings for each in networks},
        },
        "data": {"name": dataset.name, "checksums": dataset.checksums},
    }
    environment = common.environment(device)
    opened = runs.open_run(
        work,
        config,
        environment,
        resume=not args.overwrite,
        overwrite=args.overwrite,
        say=lambda text: None,
    )
    with opened:
        if args.overwrite:
            for path in work.glob("*.npz"):
                path.unlink()
        parts = [part for network in networks for part in parts_of(network)]
        measure_all(args, parts, dataset, images, device, work)
        audit = {
            "experiment": "audit",
            "seed": args.seed,
            "images": total,
            "dataset": dataset.name,
            "device": device.description,
            "commit": environment["commit"],
            "networks": numbers(parts, work),
            "data": config["data"],
            "environment": environment,
        }
    out = args.out or jobs.RESULTS / name
    runs.write_json(jobs.in_folder(out / "audit.json"), audit)
    print(audit_page.write(out, runs.read_json(out / "audit.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
