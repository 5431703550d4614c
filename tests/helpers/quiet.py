"""What small trainings of the tests have in common: on the CPU, in float32, without reports and bars."""

from __future__ import annotations

from typing import Any

QUIET: dict[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}
