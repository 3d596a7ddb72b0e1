"""Models and prompt sets over HTTP. Shapes in, services and selectors, shapes out."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.catalog import selectors, services, shapes
from interp_app.catalog.api import serializers as forms
from interp_app.catalog.models import PromptSet
from interp_app.catalog.uploads import pairs_from_rows
from interp_app.core.api import ApiView, account, checked
from interp_app.core.authentication import LabMember, TokenScope
from interp_app.core.errors import ServiceError
from interp_app.core.pagination import KeysetPagination

_EXAMPLE_PAIR = {
    "clean": "The Eiffel Tower is in the city of",
    "corrupted": "The Colosseum is in the city of",
    "answer": [" Paris"],
    "foil": [" Rome"],
}


def model_named(slug: str) -> Any:
    """The allowed model of that slug, named as an input of a request. Raises `ServiceError` 400."""
    try:
        return selectors.model_by_slug(slug)
    except ServiceError:
        message = f"There is no model {slug!r}."
        raise ServiceError(
            "model_unknown", message, "GET /api/v1/models/ lists them.", fields={"model": [message]}
        ) from None


class ModelList(ApiView):
    """The models that runs may use, newest first."""

    permission_classes = (TokenScope, LabMember)
    pagination_class = KeysetPagination

    @extend_schema(operation_id="models_list", summary="List models", responses=forms.ModelSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The models an administrator allowed. For accounts of the lab."""
        pages = self.pagination_class()
        rows = pages.paginate_queryset(selectors.allowed_models(), request, self)
        return pages.get_paginated_response([shapes.model(row) for row in rows])


class ModelOne(ApiView):
    """One model."""

    permission_classes = (TokenScope, LabMember)

    @extend_schema(operation_id="models_get", summary="Read a model", responses=forms.ModelDetailSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """Configuration, sizes and file hashes of a model. For accounts of the lab."""
        return Response(shapes.model_detail(selectors.model_by_slug(slug)))


class PromptSetList(ApiView):
    """The prompt sets one may see; POST makes a new one."""

    pagination_class = KeysetPagination

    @extend_schema(
        operation_id="prompt_sets_list",
        summary="List prompt sets",
        parameters=[forms.PromptSetQuerySerializer],
        responses=forms.PromptSetSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """Newest first; private sets of others are not in it."""
        query = checked(forms.PromptSetQuerySerializer, request.query_params.dict(), texts=True)
        rows = selectors.visible_prompt_sets(request.user, archived=query.get("archived", False))
        if query.get("q"):
            rows = rows.filter(title__icontains=query["q"])
        if query.get("task"):
            rows = rows.filter(task=query["task"])
        pages = self.pagination_class()
        found = pages.paginate_queryset(rows, request, self)
        return pages.get_paginated_response([shapes.prompt_set(row) for row in found])

    @extend_schema(
        operation_id="prompt_sets_create",
        summary="Make a prompt set",
        request=forms.NewPromptSetSerializer,
        responses={201: forms.PromptSetDetailSerializer},
        examples=[
            OpenApiExample(
                "One pair", {"title": "Capitals", "visibility": "lab", "pairs": [_EXAMPLE_PAIR]}, request_only=True
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Stores the pairs as version 1. Whether they suit a model is told by the check and tokens addresses."""
        body = checked(forms.NewPromptSetSerializer, request.data)
        made = services.create_prompt_set(owner=account(request), **body)
        return Response(_detail(request, made), status=201, headers={"Location": f"/api/v1/prompt-sets/{made.pk}/"})


class PromptSetOne(ApiView):
    """One prompt set; PATCH changes what is not part of a version."""

    @extend_schema(
        operation_id="prompt_sets_get", summary="Read a prompt set", responses=forms.PromptSetDetailSerializer
    )
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """The set and the list of its versions, newest first."""
        return Response(_detail(request, selectors.prompt_set_for(request.user, id)))

    @extend_schema(
        operation_id="prompt_sets_change",
        summary="Change a prompt set",
        request=forms.PromptSetChangeSerializer,
        responses=forms.PromptSetDetailSerializer,
    )
    def patch(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """Title, description, visibility, archived. Pairs change by a new version. For its owner."""
        found = selectors.prompt_set_for(request.user, id)
        changes = checked(forms.PromptSetChangeSerializer, request.data)
        changed = services.update_prompt_set(prompt_set=found, actor=account(request), **changes)
        return Response(_detail(request, changed))


class VersionList(ApiView):
    """Where new versions of a prompt set are posted."""

    @extend_schema(
        operation_id="prompt_set_versions_create",
        summary="Add a version",
        request=forms.NewVersionSerializer,
        responses={201: forms.VersionSerializer},
    )
    def post(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """The next version; the newest one again where the pairs are the same. For its owner."""
        found = selectors.prompt_set_for(request.user, id)
        body = checked(forms.NewVersionSerializer, request.data)
        version = services.add_version(prompt_set=found, actor=account(request), **body)
        address = f"/api/v1/prompt-sets/{found.pk}/versions/{version.number}/"
        return Response(shapes.version_detail(version), status=201, headers={"Location": address})


class VersionOne(ApiView):
    """One version of a prompt set with its pairs."""

    @extend_schema(operation_id="prompt_set_versions_get", summary="Read a version", responses=forms.VersionSerializer)
    def get(self, request: Request, id: UUID, number: int) -> Response:  # noqa: A002
        """All pairs of the version, as they were written."""
        return Response(shapes.version_detail(selectors.version_for(request.user, id, number)))


class VersionTokens(ApiView):
    """A version as one model's tokenizer sees it."""

    permission_classes = (TokenScope, LabMember)

    @extend_schema(
        operation_id="prompt_set_tokens",
        summary="Tokens of a version",
        parameters=[forms.TokensQuerySerializer],
        responses=forms.TokenViewSerializer,
    )
    def get(self, request: Request, id: UUID, number: int) -> Response:  # noqa: A002
        """Tokens, where clean and corrupted differ, and why pairs cannot be used. For accounts of the lab."""
        version = selectors.version_for(request.user, id, number)
        query = checked(forms.TokensQuerySerializer, request.query_params.dict(), texts=True)
        model = model_named(query["model"])
        view = selectors.tokenised(model, selectors.pairs_of(version))
        window = {"start": query.get("start", 1), "limit": query.get("limit", 50)}
        return Response(shapes.token_view(model.slug, selectors.tokens_of(model), view, **window))


class PromptCheck(ApiView):
    """Looks at pairs without storing them."""

    permission_classes = (TokenScope, LabMember)
    post_only_reads = True

    @extend_schema(
        operation_id="prompt_sets_check",
        summary="Check pairs",
        request=forms.PromptCheckSerializer,
        responses=forms.TokenViewSerializer,
        examples=[OpenApiExample("One pair", {"model": "demo", "pairs": [_EXAMPLE_PAIR]}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        """Tokens and problems of up to 1,000 pairs for one model. For accounts of the lab; a read token will do."""
        body = checked(forms.PromptCheckSerializer, request.data)
        model = model_named(body["model"])
        pairs = pairs_from_rows(enumerate(body["pairs"], start=1))
        view = selectors.tokenised(model, pairs)
        return Response(shapes.token_view(model.slug, selectors.tokens_of(model), view, limit=200))


def _detail(request: Request, found: PromptSet) -> dict[str, Any]:
    versions = list(found.versions.defer("pairs").select_related("created_by").order_by("-number"))
    can_edit = PromptSet.objects.editable_by(request.user).filter(pk=found.pk).exists()
    return shapes.prompt_set_detail(found, versions, can_edit=can_edit)
