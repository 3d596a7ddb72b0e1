"""The page of a model."""

import re

import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource
from interp_app.web.views import models


def test_the_sites_that_experiments_patch_are_marked(ada: Client, model: ModelSource) -> None:
    text = ada.get(f"/models/{model.slug}/").text
    sites = dict(re.findall(r'<dt class="mono">(\w+)</dt><dd>(.*?)</dd>', text))
    marked = {site for site, shown in sites.items() if "patchable" in shown}
    assert marked >= {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"}
    assert "logits" in sites.keys() - marked


def test_no_site_is_marked_where_experiments_refuse_the_family(
    ada: Client, model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_sweepable", lambda family: False)
    text = ada.get(f"/models/{model.slug}/").text
    assert '<dt class="mono">resid_pre</dt>' in text
    assert 'class="tag">patchable' not in text
