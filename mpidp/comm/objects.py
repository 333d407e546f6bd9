"""Small objects between ranks, as JSON, never pickle, so that no message can run code."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np


class Objects:
    """The verbs on objects, over the verbs on buffers that a `Communicator` adds."""

    rank: int
    size: int

    def allgather(self, value: Any) -> list[Any]:
        """The JSON-able `value` of every rank, in rank order, on every rank.

        Cost: through rank 0; 2 messages for each other rank, 2 (P - 1) for rank 0.
        """
        if self.rank == 0:
            values = [value] + [self._receive_object(source) for source in range(1, self.size)]
            for dest in range(1, self.size):
                self._send_object(values, dest)
            return json.loads(json.dumps(values))
        self._send_object(value, 0)
        return self._receive_object(0)

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The JSON-able `value` of rank `root`, on every rank."""
        if self.rank != root:
            return self._receive_object(root)
        for dest in range(self.size):
            if dest != root:
                self._send_object(value, dest)
        return value

    def sum(self, values: Sequence[float]) -> list[float]:
        """Σ over ranks of each number, added in rank order in float64: the same bits on every rank."""
        return [sum(column) for column in zip(*self.allgather([float(v) for v in values]), strict=True)]

    def _send_object(self, value: Any, dest: int) -> None:
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        self.Send(np.array([text.size], np.int64), dest)
        self.Send(text, dest)

    def _receive_object(self, source: int) -> Any:
        length = np.empty(1, np.int64)
        self.Recv(length, source)
        text = np.empty(int(length[0]), np.uint8)
        self.Recv(text, source)
        return json.loads(text.tobytes())
