"""Encodings: in how few bytes a sum over ranks travels. One a file, one line here."""

from mpidp.compression.bf16 import Bf16
from mpidp.compression.dgc import DGC
from mpidp.compression.encoding import Encoding
from mpidp.compression.fp16 import Fp16
from mpidp.compression.int8 import Int8
from mpidp.compression.onebit import OneBit
from mpidp.compression.onebit_adam import OneBitAdam
from mpidp.compression.powersgd import PowerSGD
from mpidp.compression.qsgd import QSGD
from mpidp.compression.randomk import RandomK
from mpidp.compression.sign import Sign
from mpidp.compression.sums import Place, Sum
from mpidp.compression.topk import TopK

__all__ = ["COMPRESSORS", "PLAIN", "Encoding", "Place", "Sum"]

PLAIN = "none"
COMPRESSORS: dict[str, type[Encoding]] = {
    PLAIN: Sum,
    "fp16": Fp16,
    "bf16": Bf16,
    "int8": Int8,
    "qsgd": QSGD,
    "sign": Sign,
    "onebit": OneBit,
    "topk": TopK,
    "randomk": RandomK,
    "dgc": DGC,
    "powersgd": PowerSGD,
    "onebit-adam": OneBitAdam,
}
