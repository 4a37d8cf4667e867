from enum import Enum
from types import SimpleNamespace


class RequestOutputKind(Enum):
    FINAL_ONLY = 2


class RepetitionDetectionParams(SimpleNamespace):
    pass
