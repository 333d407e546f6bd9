"""mpidp: data-parallel training on MPI, from scratch. Importing it needs no MPI and starts none."""

__version__ = "0.1.0"
