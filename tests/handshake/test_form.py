"""The form of a POST's body, made of its serializer."""

from __future__ import annotations

import re
from typing import Any

from rest_framework import serializers

from django_sse import SSEView
from django_sse.testing import connect


class BodySerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=20, help_text="What to say <b>.", initial="hello")
    long = serializers.CharField(style={"base_template": "textarea.html"})
    secret = serializers.CharField(style={"input_type": "password"})
    count = serializers.IntegerField(required=False)
    flag = serializers.BooleanField(initial=True)
    kind = serializers.ChoiceField(choices=[("a", "A & B"), ("c", "C")], required=False)
    kinds = serializers.MultipleChoiceField(choices=["a", "b"])
    day = serializers.DateField()
    nested = serializers.ListField(child=serializers.CharField())
    at = serializers.DateTimeField()
    hidden = serializers.HiddenField(default=1)
    shown = serializers.CharField(read_only=True)


class Post(SSEView):
    authentication_classes = []
    permission_classes = []
    http_method_names = ["post"]
    serializer_class = BodySerializer

    async def stream(self) -> None: ...


class WithMethod(Post):
    serializer_class = None  # type: ignore[assignment]

    def get_serializer(self) -> Any:
        return BodySerializer()


async def _page(view: Any) -> str:
    async with connect(view, headers={"Accept": "text/html"}) as answer:
        assert answer.status_code == 200
        return (await answer.read()).decode()


async def test_fields_of_the_serializer_are_those_of_the_form() -> None:
    body = await _page(Post)
    found = re.findall(r'<(input|select|textarea)(?: type="(\w+)")?[^>]* name="(\w+)"', body)
    kinds = {name: kind or tag for tag, kind, name in found}
    assert kinds == {
        "text": "text",
        "long": "textarea",
        "secret": "password",
        "count": "number",
        "flag": "checkbox",
        "kind": "select",
        "kinds": "select",
        "day": "date",
        "nested": "textarea",
        "at": "text",
    }
    assert 'value="hello" data-kind="text"' in body
    assert 'maxlength="20" required' in body
    assert "What to say &lt;b&gt;." in body
    assert '<option value="a">A &amp; B</option>' in body
    assert re.search(r'name="flag"[^>]* checked', body)
    # The raw body begins with what the form has.
    assert "&quot;text&quot;: &quot;hello&quot;" in body
    assert body.count("<option>application/json</option>") == 1


async def test_view_may_make_its_serializer_itself() -> None:
    assert 'name="text"' in await _page(WithMethod)
