"""One error class. Its codes are the closed table of src/errors.ts, which says what each one means."""

from __future__ import annotations

CODES = frozenset(
    {
        "usage",
        "config_invalid",
        "input_missing",
        "text_too_short",
        "model_not_found",
        "architecture_unsupported",
        "site_unsupported",
        "conditions_overlap",
        "path_not_shared",
        "other_run",
        "run_locked",
        "environment_missing",
        "worker_died",
        "worker_unreachable",
        "worker_busy",
        "worker_stalled",
        "protocol_mismatch",
        "session_lost",
        "invalid_message",
        "device_unavailable",
        "load_failed",
        "disk_full",
        "store_corrupt",
        "baseline_changed",
        "measurement_conflict",
        "means_missing",
        "out_of_memory",
        "nonfinite_logits",
        "hook_failed",
        "worker_crashed",
        "interrupted",
        "internal",
    }
)


class SparkablateError(Exception):
    """What went wrong (`code`), in words for a person (`message`), with facts for debugging (`detail`)."""

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"{code!r} is not a code of src/errors.ts")
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def to_wire(self) -> dict[str, str]:
        """The `wireError` of src/protocol.ts."""
        return {"code": self.code, "message": self.message[:65_536], "detail": self.detail[:262_144]}
