"""What a fresh installation starts with: a local account, the demo model, its prompt sets, and a first experiment.

Every step looks before it writes, so that running it again changes only what is missing or out of date.
"""

from collections.abc import Callable

from interp_app.catalog import files, uploads
from interp_app.catalog import services as catalog
from interp_app.catalog.models import ModelSource, PromptSet
from interp_app.core.middleware import LOCAL_USERNAME
from interp_app.core.models import Role, User
from interp_app.runs import services
from interp_app.runs.models import Run
from tracing import demo

MODEL_LOCATION = "builtin/model"
MODEL_SLUG = "demo"
FIRST_TASKS = ("ioi", "induction")
"""Prompt sets the first experiment may use, in order of preference."""


def local_account() -> User:
    """The account `make up` signs the browser in as: an administrator without a password."""
    user, created = User.objects.get_or_create(
        username=LOCAL_USERNAME, defaults={"role": Role.ADMIN, "is_staff": True, "first_name": "Local"}
    )
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user


def demo_model() -> ModelSource:
    """The demo model, registered anew only where its files changed."""
    model = ModelSource.objects.filter(slug=MODEL_SLUG).first()
    folder = files.read_model_folder(MODEL_LOCATION)
    if (
        model is not None
        and model.weights_sha256 == folder.weights_sha256
        and model.tokenizer_sha256 == folder.tokenizer_sha256
        and model.config_sha256 == folder.config_sha256
        and model.facts == folder.facts
    ):
        return model
    return catalog.register_model(
        actor=None,
        location=MODEL_LOCATION,
        slug=MODEL_SLUG,
        title="Demo GPT-2",
        description="A small GPT-2 trained by this project on its own synthetic text. The model card has its figures.",
    )


def prompt_sets(owner: User) -> list[PromptSet]:
    """The built-in prompt sets; one whose file changed gets a new version."""
    found = []
    for entry in demo.prompt_sets():
        pairs = uploads.parse(entry.path.read_bytes(), entry.file)
        prompt_set = PromptSet.objects.filter(slug=entry.slug).first()
        if prompt_set is None:
            prompt_set = catalog.create_prompt_set(
                owner=owner,
                title=entry.title,
                description=entry.description,
                task=entry.task,
                slug=entry.slug,
                pairs=pairs,
                note="Built in",
            )
        else:
            catalog.add_version(prompt_set=prompt_set, actor=owner, pairs=pairs, note="Built in")
        found.append(prompt_set)
    return found


def first_experiment(owner: User, model: ModelSource) -> Run | None:
    """Submit the first experiment of this installation; None where there was a run before."""
    if Run.objects.exists():
        return None
    entries = {entry.slug: entry for entry in demo.prompt_sets()}
    entry = next((entries[slug] for slug in FIRST_TASKS if slug in entries), next(iter(entries.values())))
    version = PromptSet.objects.get(slug=entry.slug).versions.order_by("-number").first()
    assert version is not None
    return services.submit_run(
        owner=owner,
        model=model,
        prompts=version,
        method="activation_patching",
        params={"sites": ["resid_pre", "attn_out", "mlp_out"], "metric": entry.metric},
        title=f"First experiment: {entry.title}"[:160],
        tags=["demo"],
    )


def set_up(*, first_run: bool, say: Callable[[str], None]) -> None:
    """All of the above; `say` gets a sentence about what there is."""
    owner = local_account()
    model = demo_model()
    sets = prompt_sets(owner)
    say(f"Model {model.title} and {len(sets)} prompt sets are in place.")
    if first_run and (run := first_experiment(owner, model)) is not None:
        say(f"Submitted “{run.title}”.")
