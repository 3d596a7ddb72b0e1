"""Tests of the project itself: its commands, lock, container files, texts and bans."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
