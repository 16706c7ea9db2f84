"""One renderer for snapshots and published events, and links outside of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.urls import path
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer

from django_sse import SSEView, apublish, publish, serializes, sse_path
from django_sse.checks import check_settings
from django_sse.testing import capture_published, connect


class Camels(JSONRenderer):
    """Renders keys as a front end may want them."""

    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        assert isinstance(data, dict)
        head = {key.title().replace("_", ""): value for key, value in data.items()}
        return super().render(head, *args, **kwargs)


class Shouting(JSONRenderer):
    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        return super().render(data, *args, **kwargs).upper()


class Vendors(JSONRenderer):
    media_type = "application/vnd.api+json"

    def render(self, *args: Any, **kwargs: Any) -> bytes:
        raise AssertionError("It needs a view of its own kind.")


DATA = {"first_name": "Jet"}
PLAIN, CAMELS, SHOUTING = '{"first_name":"Jet"}', '{"FirstName":"Jet"}', '{"FIRST_NAME":"JET"}'


class Names(SSEView):
    authentication_classes = []
    heartbeat = None
    topics = ["names"]

    async def snapshot(self) -> None:
        await self.send(DATA)


def page(request: Any, pk: int) -> None:
    raise AssertionError


urlpatterns = [path("customers/<int:pk>/", page, name="customer"), sse_path("names/", Names)]

BROWSABLE = "rest_framework.renderers.BrowsableAPIRenderer"


@pytest.mark.parametrize(
    ("sse", "drf", "text"),
    [
        ({}, {}, PLAIN),
        ({"RENDERER": Camels}, {}, CAMELS),
        ({"RENDERER": f"{__name__}.Camels"}, {}, CAMELS),
        ({}, {"DEFAULT_RENDERER_CLASSES": [BROWSABLE, f"{__name__}.Camels"]}, CAMELS),
        ({}, {"DEFAULT_RENDERER_CLASSES": [BROWSABLE, f"{__name__}.Vendors"]}, PLAIN),
        ({"RENDERER": Shouting}, {"DEFAULT_RENDERER_CLASSES": [f"{__name__}.Camels"]}, SHOUTING),
    ],
)
async def test_snapshot_and_published_events_are_spelt_alike(
    sse: dict[str, Any], drf: dict[str, Any], text: str
) -> None:
    with override_settings(DJANGO_SSE=sse, REST_FRAMEWORK=drf), capture_published():
        async with connect(Names) as stream:
            assert (await stream.receive()).data == text
            await apublish("names", DATA)
            await sync_to_async(publish)("names", DATA)
            assert [(await stream.receive()).data for _ in range(2)] == [text, text]


async def test_view_and_publish_may_have_renderers_of_their_own() -> None:
    class Own(Names):
        renderer_class = Shouting

    with override_settings(DJANGO_SSE={"RENDERER": Camels}), capture_published():
        async with connect(Own) as stream, connect(Names) as other:
            assert (await stream.receive()).data == SHOUTING
            assert (await other.receive()).data == CAMELS
            await apublish("names", DATA)
            await apublish("names", DATA, renderer=JSONRenderer)
            # An event is rendered once, for all that follow its topic.
            for client in (stream, other):
                assert [(await client.receive()).data for _ in range(2)] == [CAMELS, PLAIN]


class Customer:
    pk = 7


class CustomerSerializer(serializers.Serializer[Customer]):
    url = serializers.HyperlinkedIdentityField(view_name="customer")
    by = serializers.SerializerMethodField()

    def get_by(self, obj: Customer) -> str | None:
        by: str | None = self.context.get("by")
        return by


@pytest.fixture
def linked(registry: Any, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    serializes(Customer)(CustomerSerializer)


@pytest.mark.parametrize(
    ("base_url", "link"),
    [
        ("https://shop.example", "https://shop.example/customers/7/"),
        ("http://shop.example:8000/", "http://shop.example:8000/customers/7/"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"serializer": CustomerSerializer}])
def test_link_in_a_published_event_leads_to_the_site(
    linked: None, base_url: str, link: str, options: Any
) -> None:
    with override_settings(DJANGO_SSE={"BASE_URL": base_url}), capture_published() as published:
        publish("customers", Customer(), **options)
    assert published[0].event.data == f'{{"url":"{link}","by":null}}'


@pytest.mark.parametrize("options", [{}, {"serializer": CustomerSerializer}])
def test_context_is_the_callers(linked: None, rf: Any, options: Any) -> None:
    context = {"request": rf.get("/"), "by": "ada"}
    with capture_published() as published:
        publish("customers", Customer(), context=context, **options)
        # Without one, DRF itself says what is missing.
        with pytest.raises(AssertionError, match="requires the request"):
            publish("customers", Customer(), **options)
    assert published[0].event.data == '{"url":"http://testserver/customers/7/","by":"ada"}'


@pytest.mark.parametrize("renderer", ["JSONRenderer", dict, BrowsableAPIRenderer()])
def test_wrong_renderer_is_refused(renderer: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"publish\(renderer=…\) must be a subclass"):
        publish("names", DATA, renderer=renderer)


@pytest.mark.parametrize(
    ("given", "id", "text"),
    [
        ({"RENDERER": 5}, "E019", "its dotted path or None, got 5"),
        ({"RENDERER": "json"}, "E019", "its dotted path or None, got 'json'"),
        ({"RENDERER": dict}, "E019", "must be a subclass of rest_framework"),
        ({"RENDERER": "json.dumps"}, "E019", "must be a subclass of rest_framework"),
        ({"RENDERER": "nowhere.Renderer"}, "E019", '"RENDERER"] cannot be imported'),
        ({"BASE_URL": "shop.example"}, "E020", "got 'shop.example'"),
        ({"BASE_URL": "https://shop.example/app"}, "E020", "absolute URL of the site's root"),
        ({"BASE_URL": 5}, "E020", "got 5"),
    ],
)
def test_wrong_setting_is_found(given: dict[str, Any], id: str, text: str) -> None:
    with override_settings(DJANGO_SSE=given):
        [found] = check_settings()
    assert found.id == f"django_sse.{id}"
    assert text in found.msg


def test_renderer_is_the_views_to_choose() -> None:
    choose: Callable[[Any], BaseRenderer] = Names.get_renderer
    assert type(choose(Names())) is JSONRenderer
