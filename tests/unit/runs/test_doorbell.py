"""Bells over a real Redis: they arrive, a burst becomes few, and a Redis that is away costs nothing."""

import asyncio
import os
import time
import uuid
from typing import Any

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from interp_app.runs import doorbell
from tests.deadlines import eventually

REDIS = os.environ.get("PATCHBAY_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


def layer(address: str) -> dict[str, Any]:
    return {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [address]}}}


@pytest.fixture
def over_redis(settings: Any) -> None:
    settings.CHANNEL_LAYERS = layer(REDIS)


def bells_of(run_id: uuid.UUID, ring: Any, *, until: int) -> list[int]:
    """The numbers rung for `run_id` once `ring()` was called, up to `until`."""

    async def listen() -> list[int]:
        heard = []
        hearing = RedisPubSubChannelLayer(hosts=[REDIS])
        channel = await hearing.new_channel()
        await hearing.group_add(doorbell.group_name(run_id), channel)
        ring()
        async with asyncio.timeout(5):
            while not heard or heard[-1] < until:
                heard.append((await hearing.receive(channel))["seq"])
        await hearing.flush()
        return heard

    return asyncio.run(listen())


@pytest.mark.usefixtures("over_redis")
def test_a_bell_reaches_other_processes() -> None:
    run_id = uuid.uuid4()
    assert bells_of(run_id, lambda: doorbell.ring(run_id, 7), until=7) == [7]


@pytest.mark.usefixtures("over_redis")
def test_a_burst_rings_four_times_a_second_and_the_last_one_counts() -> None:
    run_id = uuid.uuid4()
    started = time.monotonic()

    def ring() -> None:
        for seq in range(1, 2001):
            doorbell.ring(run_id, seq)

    heard = bells_of(run_id, ring, until=2000)
    assert len(heard) <= 2 + doorbell.BELLS_PER_SECOND * (time.monotonic() - started)


def test_ringing_without_redis_returns_at_once(settings: Any) -> None:
    settings.CHANNEL_LAYERS = layer("redis://127.0.0.1:1/0")
    bell = doorbell.Doorbell()
    failed = doorbell.BELLS.labels("failed")._value.get()
    started = time.monotonic()
    bell.ring(uuid.uuid4(), 1)
    assert time.monotonic() - started < 0.1
    eventually(lambda: doorbell.BELLS.labels("failed")._value.get() > failed, seconds=5)


def test_a_layer_inside_one_process_is_not_rung(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    monkeypatch.setattr(doorbell, "_current", None)
    doorbell.ring(uuid.uuid4(), 1)
    assert doorbell._current is None
    assert doorbell.flush()


def test_one_late_bell_does_not_delay_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bell, now = doorbell.Doorbell(), 100.0
    monkeypatch.setattr(doorbell.time, "monotonic", lambda: now)
    bell._pending = {"run": 1}
    assert bell._due()[0] == {"run": 1}
    now = 100.45  # rung at 100.25, but the process was busy
    bell._pending = {"run": 2}
    assert bell._due()[0] == {"run": 2}
    now = 100.50
    bell._pending = {"run": 3}
    assert bell._due()[0] == {"run": 3}
