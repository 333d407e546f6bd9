"""Going on with the ranks that are left (`--on-failure shrink`): copies in memory, agreement, the job anew."""
