"""Tests of the HTTP API against Postgres."""
