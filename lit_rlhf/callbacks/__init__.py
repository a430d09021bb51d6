"""Callbacks that any Lightning project can take: stops, a budget of time, alarms, exports, tables, throughput."""

from lit_rlhf.callbacks.alarms import TrainingAlarms
from lit_rlhf.callbacks.budget import TrainingBudget
from lit_rlhf.callbacks.export import ExportAtEnd
from lit_rlhf.callbacks.metrics_file import MetricsFile
from lit_rlhf.callbacks.sample_table import CELL_LENGTH, SampleTable, markdown_table
from lit_rlhf.callbacks.stop import GracefulStop, GracefulStopped
from lit_rlhf.callbacks.throughput import Throughput, count_tokens
from lit_rlhf.callbacks.writing import write_beside_and_rename

__all__ = [
    "CELL_LENGTH",
    "ExportAtEnd",
    "GracefulStop",
    "GracefulStopped",
    "MetricsFile",
    "SampleTable",
    "Throughput",
    "TrainingAlarms",
    "TrainingBudget",
    "count_tokens",
    "markdown_table",
    "write_beside_and_rename",
]
