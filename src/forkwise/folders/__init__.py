"""Bytes on disk and nothing else: whole-file writes, locks, result files, and the log of a training run."""

from forkwise.folders.locks import LOCK, is_held, only_process
from forkwise.folders.whole import (
    flush_folder,
    json_text,
    remove_empty,
    whole_file,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "LOCK",
    "flush_folder",
    "is_held",
    "json_text",
    "only_process",
    "remove_empty",
    "whole_file",
    "write_bytes",
    "write_json",
    "write_text",
]
