"""The options of checkpoints."""

from dataclasses import dataclass

from mpidp.errors import UserError
from mpidp.options import option


@dataclass
class CheckpointOptions:
    resume: bool = option(False, "go on from the last complete checkpoint in --run-dir")
    skip_damaged: bool = option(
        False, "where the last checkpoint is damaged, have a run go on from the last one that is whole"
    )
    checkpoint_every: int | None = option(None, "steps between two checkpoints (none by default)", minimum=1)
    keep_checkpoints: int | None = option(None, "how many of them to keep (default: 2)", minimum=1)

    def __post_init__(self) -> None:
        if self.keep_checkpoints is not None and self.checkpoint_every is None:
            raise UserError(
                f"--keep-checkpoints {self.keep_checkpoints} needs --checkpoint-every N, without which there are none"
            )
