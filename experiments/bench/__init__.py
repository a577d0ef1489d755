"""How long minivat's computations take, compared with PyTorch and JAX, and whether all agree."""
