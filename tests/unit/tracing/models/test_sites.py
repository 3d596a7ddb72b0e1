"""`model.sites` as a collection: layers by number, by slice and in a loop, and what is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests import zoo
from tracing import LanguageModel
from tracing.errors import SiteError

IDS = zoo.ids(1, 5)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(zoo.model("gpt2"))


def test_a_loop_and_a_slice_give_each_layers_site(model: LanguageModel) -> None:
    with model.trace(IDS):
        looped = [hidden.save() for hidden in model.sites.resid_post]
        cut = [hidden.save() for hidden in model.sites.resid_post[1:]]
        single = model.sites.resid_post[-1].save()
    assert len(looped) == len(model.sites.resid_post) == model.facts.n_layers
    assert all(torch.equal(a, b) for a, b in zip(looped[1:], cut, strict=True))
    assert torch.equal(single, looped[-1])
    assert not torch.equal(looped[0], looped[1])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda sites: sites.resid_pots, r"no site 'resid_pots' .*\. Did you mean resid_post\?"),
        (lambda sites: setattr(sites, "resid_pots", 1), "no site 'resid_pots'"),
        (lambda sites: sites.z["last"], r"sites\.z\['last'\] is not one layer \(at test_sites\.py"),
        (lambda sites: sites.z.__setitem__(slice(0, 2), 0), "is not one layer"),
        (lambda sites: setattr(sites, "z", 0), "has one value a layer"),
        (lambda sites: sites.z[3], "There is no layer 3: the model has 3"),
    ],
)
def test_what_is_no_site_is_refused_by_name(model: LanguageModel, use: Callable[[Any], Any], message: str) -> None:
    with model.trace(IDS):
        model.output.save()
        with pytest.raises(SiteError, match=message):
            use(model.sites)


def test_notebooks_that_probe_for_methods_get_no_site(model: LanguageModel) -> None:
    assert not hasattr(model.sites, "_repr_html_")
    assert not hasattr(model.sites, "resid_pots")
    assert hasattr(model.sites, "resid_post")
