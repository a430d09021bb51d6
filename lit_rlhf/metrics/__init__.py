"""What is logged, by name, and the numbers of this field that torchmetrics lacks."""

from lit_rlhf.metrics.accuracy import PairAccuracy
from lit_rlhf.metrics.calibration import CalibrationError
from lit_rlhf.metrics.evaluation import Evaluation, ReliabilityBin, evaluate
from lit_rlhf.metrics.groups import Group
from lit_rlhf.metrics.intervals import Interval, bootstrap
from lit_rlhf.metrics.judged import Judged, JudgedComparisons
from lit_rlhf.metrics.length import LengthCorrelation
from lit_rlhf.metrics.log_loss import PreferenceLogLoss
from lit_rlhf.metrics.means import NamedMeans
from lit_rlhf.metrics.names import LOGGED_NAMES
from lit_rlhf.metrics.policy import approximate_kl, clip_fraction, explained_variance, value_clip_fraction
from lit_rlhf.metrics.rankings import KendallTau, TopOne

__all__ = [
    "LOGGED_NAMES",
    "CalibrationError",
    "Evaluation",
    "Group",
    "Interval",
    "Judged",
    "JudgedComparisons",
    "KendallTau",
    "LengthCorrelation",
    "NamedMeans",
    "PairAccuracy",
    "PreferenceLogLoss",
    "ReliabilityBin",
    "TopOne",
    "approximate_kl",
    "bootstrap",
    "clip_fraction",
    "evaluate",
    "explained_variance",
    "value_clip_fraction",
]
