"""How fast the history answers with 10,000 runs: pages of `GET /api/v1/runs/` under different filters.

    python -m benchmarks.history_api [--runs 10000] [--requests 200]

A private database and Redis, one web process (`manage.py web`) as in services mode, one client that asks one page after
the other over one connection, signed in as a member of the lab who sees about 80 % of the runs. A request is timed from
sending it to having read the body. The requests go round the filters, so that caches of one do not help the next.
Writes benchmarks/results/history_api.md; fails where p95 over all is above the target.
"""

import argparse
import http.client
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.realtime import ROOT, Redis, Site, database

RESULTS: Final = Path(__file__).parent / "results"
TARGET_MS: Final = 100.0
PAGE: Final = 50
FILTERS: Final[dict[str, dict[str, str]]] = {
    "newest": {},
    "oldest first": {"ordering": "created"},
    "status": {"status": "failed"},
    "model": {"model": "model-3"},
    "prompt set": {"prompts": "set-7"},
    "method and tag": {"method": "activation_patching", "tag": "tag-4"},
    "owner": {"owner": "person3"},
    "mine": {"owner": "me"},
    "search": {"q": "resid_mid"},
    "search, no match": {"q": "zebra"},
    "a week": {"since": "2026-03-02T00:00:00Z", "until": "2026-03-09T00:00:00Z"},
    "archived": {"archived": "true"},
    "six at once": {
        "status": "succeeded",
        "model": "model-1",
        "tag": "tag-2",
        "q": "swap",
        "owner": "person1",
        "since": "2026-01-01T00:00:00Z",
    },
}


def fill(count: int) -> str:
    """Rows of a year of a lab, from a seed; gives the session of the member who will ask."""
    import django

    django.setup()
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connection

    from interp_app.core.models import Role, User

    people = [User.objects.create_user(f"person{n}", role=Role.MEMBER) for n in range(12)]
    _make_runs(count, people)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    session = SessionStore()
    session[SESSION_KEY] = str(people[0].pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = people[0].get_session_auth_hash()
    session.create()
    return str(session.session_key)


def _make_runs(count: int, people: list[Any]) -> None:
    from datetime import UTC, datetime

    from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
    from interp_app.runs.models import Run, Status, Tag

    dice = random.Random(0)
    facts = {"family": "gpt2", "n_layers": 12, "n_heads": 12, "d_model": 768, "n_params": 124_000_000}
    models = [
        ModelSource.objects.create(
            slug=f"model-{n}",
            title=f"Model {n}",
            location=f"lab/model-{n}",
            family="gpt2",
            facts=facts,
            config={"model_type": "gpt2", "extra": "x" * 1500},
            weights_sha256={"model.safetensors": "a" * 64},
            tokenizer_sha256="b" * 64,
            config_sha256="c" * 64,
        )
        for n in range(6)
    ]
    pair = {
        "clean": "When Mary and John went to the store, John gave a drink to",
        "answer": [" Mary"],
        "foil": [" John"],
        "corrupted": "When Mary and John went to the store, Mary gave a drink to",
        "label": "",
    }
    versions = [
        PromptSetVersion.objects.create(
            prompt_set=PromptSet.objects.create(
                slug=f"set-{n}", title=f"{('Name swap', 'Facts', 'Years')[n % 3]} {n}", owner=people[n % 12]
            ),
            number=1,
            pairs=[pair] * 60,
            n_pairs=60,
            sha256=f"{n:064x}",
        )
        for n in range(20)
    ]
    tags = Tag.objects.bulk_create([Tag(name=f"tag-{n}") for n in range(10)])
    sites = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")
    start = datetime(2025, 6, 1, tzinfo=UTC)
    runs = []
    for n in range(count):
        at = start + timedelta(hours=n * 8000 / count)
        status = dice.choices(Status.values, (1, 0, 90, 6, 3))[0]
        site = dice.choice(sites)
        failed = status == Status.FAILED
        runs.append(
            Run(
                title=f"{site} sweep {n}",
                owner=dice.choice(people),
                method="activation_patching",
                visibility=dice.choices(("private", "lab", "public"), (20, 70, 10))[0],
                archived_at=at if dice.random() < 0.1 else None,
                spec=_spec(site, n),
                spec_hash=f"{n:064x}",
                model=dice.choice(models),
                prompts=dice.choice(versions),
                status=status,
                attempt=1,
                cells_done=192,
                cells_total=192,
                flops=4e11,
                last_seq=60,
                summary={"clean": 3.21, "corrupted": -2.9, "strongest": {"layer": 7, "position": 12, "value": 0.91}},
                failure_code="out_of_memory" if failed else "",
                failure_text="No room for 64 rows." if failed else "",
                provenance=_provenance(),
                queued_at=at,
                started_at=at,
                finished_at=at + timedelta(seconds=40) if status != Status.QUEUED else None,
            )
        )
    Run.objects.bulk_create(runs, batch_size=500)
    for n, run in enumerate(runs):
        run.created_at = start + timedelta(hours=n * 8000 / count)  # auto_now_add had the moment of filling
    Run.objects.bulk_update(runs, ["created_at"], batch_size=1000)
    links = Run.tags.through
    links.objects.bulk_create(
        [links(run_id=run.pk, tag_id=tag.pk) for run in runs for tag in dice.sample(tags, dice.randint(0, 3))],
        batch_size=2000,
    )


def _spec(site: str, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "sites": [site],
        "over": "layer_position",
        "direction": "denoising",
        "metric": "logit_diff",
        "positions": "end",
        "dtype": "float32",
        "batch_rows": None,
        "note": "n" * 400,
    }


def _provenance() -> dict[str, Any]:
    packages = dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "numpy", "django"), "1.2.3")
    return {"packages": packages, "commit": "c" * 40, "device": "cuda:0", "log": "p" * 1500, "wall_seconds": 41.2}


def measure(site: Site, session: str, requests: int) -> dict[str, list[float]]:
    """Milliseconds a request, by filter. Every second request of a filter follows `next` to a deeper page."""
    line = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    headers = {"Cookie": f"sessionid={session}"}
    found: dict[str, list[float]] = {name: [] for name in FILTERS}
    deeper: dict[str, str | None] = dict.fromkeys(FILTERS)
    for name, number in zip(itertools.cycle(FILTERS), range(-len(FILTERS), requests), strict=False):
        first = "/api/v1/runs/?" + urlencode(FILTERS[name])
        started = time.perf_counter()
        line.request("GET", deeper[name] or first, headers=headers)
        response = line.getresponse()
        data = response.read()
        milliseconds = (time.perf_counter() - started) * 1000
        if response.status != 200:
            raise RuntimeError(f"{name}: {response.status} {data[:300]!r}")
        page = json.loads(data)
        deeper[name] = page["next"]
        if number >= 0:  # the first round warms connections and the planner
            found[name].append(milliseconds)
    line.close()
    return found


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))]


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used: what a request costs whatever else loads the machine."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def report(found: dict[str, list[float]], cpu_ms: float, options: argparse.Namespace, load: float) -> str:
    every = [one for values in found.values() for one in values]
    lines = [
        f"# History API with {options.runs:,} runs",
        "",
        f"`python -m benchmarks.history_api --runs {options.runs} --requests {options.requests}` · "
        f"{platform.machine()}, "
        f"{os.cpu_count()} cores shared by client, web process and Postgres; load average {load:.1f} before the start.",
        "",
        f"Pages of {PAGE} runs, walking from page to page; {len(every)} requests, one after the other. "
        f"CPU of the web process: {cpu_ms:.0f} ms a request.",
        "",
        "| filter | requests | p50 ms | p95 ms | max ms |",
        "|:--|--:|--:|--:|--:|",
    ]
    for name, values in [*found.items(), ("**all**", every)]:
        lines.append(
            f"| {name} | {len(values)} | {statistics.median(values):.0f} | {percentile(values, 0.95):.0f} "
            f"| {max(values):.0f} |"
        )
    verdict = "met" if percentile(every, 0.95) <= TARGET_MS else "missed"
    lines += [
        "",
        f"Target: p95 ≤ {TARGET_MS:.0f} ms over all requests: {verdict}. The number of queries a page (four, "
        "two of them for the session) is held by `tests/api/query_counts.json`.",
    ]
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Start everything, fill it, measure, end everything: latencies by filter, and CPU milliseconds a request."""
    with tempfile.TemporaryDirectory(prefix="patchbay-history-") as name:
        redis = Redis(Path(name))
        redis.start()
        try:
            with database() as url:
                mode = {
                    "PATCHBAY_MODE": "services",
                    "PATCHBAY_DATABASE_URL": url,
                    "PATCHBAY_DATABASE_POOL": "8",
                    "PATCHBAY_REDIS_URL": redis.url,
                    "PATCHBAY_RATE_USER": "1000000/min",
                }
                site = Site(mode, Path(name))
                site.start()
                try:
                    command = [sys.executable, "-m", "benchmarks.history_api", "--fill", "--runs", str(options.runs)]
                    environment = {**site.environment, "DJANGO_SETTINGS_MODULE": "interp_app.settings.services"}
                    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
                    before = cpu_seconds(site.pid)
                    found = measure(site, done.stdout.decode().split()[-1], options.requests)
                    requests = options.requests + len(FILTERS)
                    return found, (cpu_seconds(site.pid) - before) * 1000 / requests
                finally:
                    site.stop()
        finally:
            redis.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        print(fill(options.runs))
        return
    load = os.getloadavg()[0]
    found, cpu_ms = run(options)
    text = report(found, cpu_ms, options, load)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "history_api.md").write_text(text)
    if percentile([one for values in found.values() for one in values], 0.95) > TARGET_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
