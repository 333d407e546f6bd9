"""Bandwidths of sums over ranks as nccl-tests defines them (NVIDIA, nccl-tests, doc/PERFORMANCE.md)."""

ALL_REDUCE, REDUCE_SCATTER = "all-reduce", "reduce-scatter"


def algorithm_bandwidth(size: int, seconds: float) -> float:
    """GB/s (1e9 bytes): S / t, S the bytes of one rank's whole vector."""
    return size / seconds / 1e9


def bus_bandwidth(operation: str, size: int, seconds: float, ranks: int) -> float:
    """GB/s: S / t × 2 (P - 1) / P for all-reduce, S / t × (P - 1) / P for reduce-scatter.

    What each rank's link to the others must carry at least where sums are made by messages, so that it can be
    compared with the link's own bandwidth whatever P is.
    """
    passes = {ALL_REDUCE: 2, REDUCE_SCATTER: 1}[operation]
    return algorithm_bandwidth(size, seconds) * passes * (ranks - 1) / ranks


def count(operation: str, n: int, ranks: int) -> int:
    """The column "count": elements of the vector, for reduce-scatter those that a rank gets."""
    return n if operation == ALL_REDUCE else n // ranks


def memory_limit(operation: str, size: int, ranks: int, bandwidth: float) -> float:
    """Seconds in which memory of `bandwidth` GB/s (read + written, all ranks together) moves what a sum must.

    A rank reads its part, S / P bytes, of all P vectors and writes the sum into all of them (all-reduce: 2 S bytes
    a rank) or into its own (reduce-scatter: S + S / P).
    """
    a_rank = size * (2 if operation == ALL_REDUCE else 1 + 1 / ranks)
    return ranks * a_rank / bandwidth / 1e9
