"""Metadata and extras. Version: `minivat.__version__`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"$', (root / "minivat/__init__.py").read_text(), re.M)[1]

# 1.29 and later require a compiler of kernels for CUDA 13.
cudnn = "nvidia-cudnn-frontend>=1.28,<1.29"
numba = ["numba>=0.62"]
experiments = [
    *numba,
    "jinja2",
    "joblib>=1.3",
    "matplotlib",
    "pooch>=1.8",
    "scikit-learn>=1.6",
    "tqdm",
]
dask = ["dask[distributed]"]
tensorboard = ["tensorboardX>=2.6.3"]
notebook = ["ipykernel", "nbclient", "nbformat"]
coverage = ["coverage", "pytest-cov"]

setup(
    name="minivat",
    version=version,
    description="Virtual Adversarial Training (Miyato et al.), transparent and exact",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The minivat authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/1704.03976"},
    keywords=[
        "virtual adversarial training",
        "semi-supervised learning",
        "regularization",
        "automatic differentiation",
        "Hessian-vector product",
        "numpy",
        "cupy",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["minivat*"]),
    package_data={"minivat": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=["numpy>=2", "scipy>=1.13", "threadpoolctl>=3"],
    extras_require={
        "sklearn": ["scikit-learn>=1.6"],
        "numba": numba,
        "cuda12": ["cupy-cuda12x[ctk]>=14,<15", "nvidia-cudnn-cu12>=9,<10", cudnn],
        "cuda13": ["cupy-cuda13x[ctk]>=14,<15", "nvidia-cudnn-cu13>=9,<10", cudnn],
        "experiments": experiments,
        "dask": dask,
        "tensorboard": tensorboard,
        "test": [
            *experiments,
            *dask,
            *tensorboard,
            *notebook,
            *coverage,
            "hypothesis",
            "pytest>=8",
            "pytest-xdist",
        ],
        "mutation": ["cosmic-ray>=8.4,<9"],
        "dev": ["mypy", "radon", "ruff>=0.17,<0.18"],
        "bench": [*experiments, "jax", "torch==2.13.0"],
    },
)
