"""Run over real ranks: `mpirun -n P python -m mpi4py -m pytest -x --with-mpi tests/mpi`."""

import os

import pytest

pytestmark = pytest.mark.mpi


def test_every_rank_sees_all_ranks_that_were_launched():
    from mpi4py import MPI

    from mpidp.comm.world import launcher_size

    launched = launcher_size()
    asked = int(os.environ.get("MPIDP_TEST_RANKS", launched[0] if launched else 1))
    assert MPI.COMM_WORLD.size == asked
    assert 0 <= MPI.COMM_WORLD.rank < asked
