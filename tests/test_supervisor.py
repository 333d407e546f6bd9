"""The supervisor: ranks that ended by a failure are started again from the last checkpoint, and no others."""

from tests.launch import run_alone
from tests.test_train import error_line, train


def test_restart_needs_the_supervisor(tmp_path):
    refused = run_alone(train("--model", "linear", "--on-failure", "restart", "--run-dir", tmp_path / "run"))
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
    assert "python -m mpidp.launch -n P" in error_line(refused)
