"""Checkpoints: written aside and renamed, so that at any moment the last complete one is whole.

    DIR/checkpoints/step-00000100/
        rank-00000.safetensors    what `Strategy.saved` gave on that rank; ranks with nothing to save write none
        manifest.json             step, ranks, options, and the SHA-256 of every file and of itself: written last

The folder is made as `.step-00000100.TOKEN.partial`, every file is synced to disk, and one rename makes it count. All
of that is done by a thread of each rank (`background.py`) while training goes on.
"""

from mpidp.checkpoint.background import Checkpoints, checkpoint_figures
from mpidp.checkpoint.manifest import Damaged, complete
from mpidp.checkpoint.reading import Files, find, unfit

__all__ = ["Checkpoints", "Damaged", "Files", "checkpoint_figures", "complete", "find", "unfit"]
