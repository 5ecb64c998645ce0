"""Benchmarks: what things cost, measured; nothing here is collected as a test."""
