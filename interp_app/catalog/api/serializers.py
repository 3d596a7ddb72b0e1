"""What the catalog's addresses take and give. Output is built by `shapes`; here it is described for the schema."""

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from interp_app.catalog.uploads import MAX_PAIRS, MAX_PROMPT_BYTES, MAX_WORDS
from interp_app.core.api import StrictSerializer
from interp_app.core.pagination import PageQuerySerializer
from interp_app.core.visibility import Visibility


class PersonSerializer(serializers.Serializer):
    """An account as others see it."""

    id = serializers.UUIDField()
    name = serializers.CharField()


class ModelFactsSerializer(serializers.Serializer):
    """Sizes read from the model's config.json."""

    family = serializers.CharField()
    n_layers = serializers.IntegerField()
    n_heads = serializers.IntegerField()
    n_kv_heads = serializers.IntegerField()
    d_model = serializers.IntegerField()
    d_head = serializers.IntegerField()
    d_mlp = serializers.IntegerField()
    vocab_size = serializers.IntegerField()
    max_positions = serializers.IntegerField(help_text="Longest prompt in tokens.")
    n_params = serializers.IntegerField()


class ModelSerializer(serializers.Serializer):
    """A model that runs may use."""

    slug = serializers.SlugField(help_text="Its name in addresses and requests.")
    title = serializers.CharField()
    description = serializers.CharField()
    family = serializers.CharField()
    revision = serializers.CharField()
    facts = ModelFactsSerializer()
    created_at = serializers.DateTimeField()
    url = serializers.CharField(help_text="Its page.")


class ModelDetailSerializer(ModelSerializer):
    """A model with its configuration and the hashes of its files."""

    config = serializers.DictField(
        child=serializers.JSONField(), help_text="config.json, without private keys and paths."
    )
    weights_sha256 = serializers.DictField(child=serializers.CharField())
    tokenizer_sha256 = serializers.CharField()
    config_sha256 = serializers.CharField(help_text="Of the whole config.json.")


class PairSerializer(serializers.Serializer):
    """A clean and a corrupted prompt, the answer the clean one asks for, and the foil the corrupted one asks for."""

    clean = serializers.CharField(trim_whitespace=False)
    corrupted = serializers.CharField(trim_whitespace=False)
    answer = serializers.ListField(child=serializers.CharField(trim_whitespace=False))
    foil = serializers.ListField(child=serializers.CharField(trim_whitespace=False))
    label = serializers.CharField()  # type: ignore[assignment]


class PromptSetSerializer(serializers.Serializer):
    """A prompt set and the size of its newest version."""

    id = serializers.UUIDField()
    slug = serializers.CharField(allow_null=True, help_text="Built-in sets only.")
    title = serializers.CharField()
    description = serializers.CharField()
    task = serializers.CharField()
    owner = PersonSerializer()
    visibility = serializers.ChoiceField(choices=Visibility.choices)
    archived = serializers.BooleanField()
    version = serializers.IntegerField(help_text="Number of the newest version.")
    pairs = serializers.IntegerField(help_text="Pairs in the newest version.")
    created_at = serializers.DateTimeField()
    url = serializers.CharField(help_text="Its page.")


class VersionSummarySerializer(serializers.Serializer):
    """A version without its pairs."""

    number = serializers.IntegerField()
    n_pairs = serializers.IntegerField()
    sha256 = serializers.CharField(help_text="Hash of the canonical JSON of the pairs.")
    note = serializers.CharField()
    created_at = serializers.DateTimeField()
    created_by = PersonSerializer(allow_null=True)


class CanEditSerializer(serializers.Serializer):
    """What the one who asks may do."""

    edit = serializers.BooleanField()


class PromptSetDetailSerializer(PromptSetSerializer):
    """A prompt set with its versions, newest first."""

    versions = VersionSummarySerializer(many=True)
    can = CanEditSerializer()


class PromptSetRefSerializer(serializers.Serializer):
    """The set a version belongs to."""

    id = serializers.UUIDField()
    title = serializers.CharField()


class VersionSerializer(VersionSummarySerializer):
    """A version with its pairs. It never changes."""

    prompt_set = PromptSetRefSerializer()
    pairs = PairSerializer(many=True)


class TokenSerializer(serializers.Serializer):
    """One token: its id and text (`" Mary"`, leading space kept)."""

    id = serializers.IntegerField()
    text = serializers.CharField(trim_whitespace=False)
    special = serializers.BooleanField()
    differs = serializers.BooleanField(help_text="Clean and corrupted differ here.")


class TokenizedPairSerializer(serializers.Serializer):
    """A pair as the model sees it."""

    number = serializers.IntegerField(help_text="Counted from 1.")
    clean = TokenSerializer(many=True)
    corrupted = TokenSerializer(many=True)
    answer = TokenSerializer(many=True)
    foil = TokenSerializer(many=True)
    aligned = serializers.BooleanField(help_text="Both prompts have the same number of tokens.")


class PairProblemSerializer(serializers.Serializer):
    """Why a pair cannot be used."""

    number = serializers.IntegerField(help_text="The pair, counted from 1; 0 for the whole set.")
    field = serializers.CharField()
    message = serializers.CharField()
    remedy = serializers.CharField()


class TokenViewSerializer(serializers.Serializer):
    """Pairs as one model sees them, and every reason why some cannot be used."""

    model = serializers.SlugField()
    usable = serializers.BooleanField(help_text="No pair has a problem.")
    total = serializers.IntegerField(help_text="Pairs in the version or request.")
    pairs = TokenizedPairSerializer(many=True)
    problems = PairProblemSerializer(many=True)
    problems_total = serializers.IntegerField()


# -- requests ---------------------------------------------------------------------------------------------------------


_TEXT = {"type": "string", "maxLength": MAX_PROMPT_BYTES}
_WORDS = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": MAX_WORDS}]}


@extend_schema_field(
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_PAIRS,
        "items": {
            "type": "object",
            "description": "A pair as it is written. Leading spaces count: they are part of the tokens.",
            "required": ["clean", "corrupted", "answer"],
            "additionalProperties": False,
            "properties": {
                "clean": _TEXT,
                "corrupted": _TEXT,
                "answer": {**_WORDS, "description": "What the clean prompt asks for; one token each."},
                "foil": {**_WORDS, "description": "What the corrupted prompt asks for; one token each."},
                "label": _TEXT,
                "spans": {
                    "type": "object",
                    "description": "Named places: a word of the clean prompt, [word, occurrence], a position, or "
                    "[first position, the one behind the last].",
                    "additionalProperties": {},
                },
            },
        },
    }
)
class PairsField(serializers.ListField):
    """A list of pairs; their content is judged by the same code that reads uploaded files."""

    child = serializers.JSONField()


class NewPromptSetSerializer(StrictSerializer):
    """A prompt set with the pairs of its version 1."""

    title = serializers.CharField(max_length=120)
    description = serializers.CharField(required=False, allow_blank=True, max_length=10_000)
    task = serializers.SlugField(required=False, allow_blank=True, max_length=40)
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False)
    note = serializers.CharField(required=False, allow_blank=True, max_length=200)
    pairs = PairsField(min_length=1, max_length=MAX_PAIRS)


class PromptSetChangeSerializer(StrictSerializer):
    """What may change of a prompt set; what is left out stays."""

    title = serializers.CharField(required=False, max_length=120)
    description = serializers.CharField(required=False, allow_blank=True, max_length=10_000)
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False)
    archived = serializers.BooleanField(required=False)


class NewVersionSerializer(StrictSerializer):
    """The pairs of the next version."""

    pairs = PairsField(min_length=1, max_length=MAX_PAIRS)
    note = serializers.CharField(required=False, allow_blank=True, max_length=200)


class PromptCheckSerializer(StrictSerializer):
    """Pairs to look at without storing them."""

    model = serializers.SlugField()
    pairs = PairsField(min_length=1, max_length=1000)


class PromptSetQuerySerializer(PageQuerySerializer):
    """Filters of the list of prompt sets."""

    q = serializers.CharField(required=False, max_length=200, help_text="Part of the title.")
    task = serializers.CharField(required=False, max_length=40, help_text="Exactly this task.")
    archived = serializers.BooleanField(required=False, help_text="The archived ones instead of the others.")


class TokensQuerySerializer(StrictSerializer):
    """Which model looks, and at which pairs."""

    model = serializers.SlugField(help_text="Slug of the model whose tokenizer is used.")
    start = serializers.IntegerField(required=False, min_value=1, max_value=MAX_PAIRS, help_text="First pair, from 1.")
    limit = serializers.IntegerField(required=False, min_value=1, max_value=200, help_text="Pairs shown; default 50.")
