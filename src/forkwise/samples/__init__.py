"""The samples table: one Parquet schema that every sampler writes and every statistic reads."""

from __future__ import annotations

from forkwise.samples.store import SCHEMA, TOKEN_COLUMNS, ShardWriter, find_shards, read_samples, write_shard

__all__ = ["SCHEMA", "TOKEN_COLUMNS", "ShardWriter", "find_shards", "read_samples", "write_shard"]
