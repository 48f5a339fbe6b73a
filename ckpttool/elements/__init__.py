"""Packed bytes as numbers: bits, sums, statistics, casts, digests."""
