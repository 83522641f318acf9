"""Disable the telemetry of libraries, before they are imported."""

from __future__ import annotations

import os
import sys

# Environment variables; those that the user has set are kept.
VARIABLES = {
    "DO_NOT_TRACK": "1",  # https://donottrack.sh: huggingface_hub and others
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
}
# OpenVINO and NNCF report through this package, which resolves host names and writes a client id
# before it can be disabled. Both work without it if it cannot be imported.
PACKAGE = "openvino_telemetry"


def disable() -> None:
    """Disable telemetry in this process and its children."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = None  # type: ignore[assignment]  # makes its import an ImportError
