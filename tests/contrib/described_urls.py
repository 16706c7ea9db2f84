"""The streams of that project."""

from __future__ import annotations

from typing import Any, TypedDict

from django.contrib.auth.models import User
from django.urls import include, path
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.routers import DefaultRouter

from django_sse import JobView, ModelSSEView, ServerSentEvent, SSEView, serializes, sse_path
from django_sse.tickets import TicketAuthentication, TicketView


@serializes(User)
class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["username"]


class PromptSerializer(serializers.Serializer[Any]):
    prompt = serializers.CharField()


class Orders(SSEView):
    authentication_classes = [SessionAuthentication, TicketAuthentication]
    permission_classes = [IsAuthenticated]
    topics = ["orders"]
    events = {"created": User, "list": list[User], "end": None, "text": str, None: dict}


class Clock(SSEView):
    """The time."""

    authentication_classes = []
    permission_classes = [AllowAny]
    topics = ["clock"]


class Price(TypedDict):
    price: int


class Prices(SSEView):
    authentication_classes = [TokenAuthentication]
    permission_classes = [IsAuthenticated]
    topics = ["prices"]
    events = {
        "price": Price,
        "prices": list,
        "raw": dict,
        "count": int,
        "user": UserSerializer,
        "gaps": list[int | None],
    }


class Generate(SSEView):
    http_method_names = ["post"]
    serializer_class = PromptSerializer
    events = {"token": str, "done": User | None, "part": str | User}
    topics = ["generate"]


class Users(ModelSSEView):
    authentication_classes = []
    permission_classes = [AllowAny]
    queryset = User.objects.all()
    serializer_class = UserSerializer
    lookup_field = "username"
    filter_backends = [DjangoFilterBackend]
    filterset_fields = {"is_staff": ["exact"], "id": ["gte"]}


router = DefaultRouter()
router.register("people", Users)


class Answer(JobView):
    authentication_classes = [SessionAuthentication, TicketAuthentication]
    serializer_class = PromptSerializer
    events = {"token": str}

    async def work(self) -> None:
        """Tests read the document only."""


class Chat(Answer):
    events = {"token": str, None: dict}

    def end_event(self, ending: str) -> ServerSentEvent:
        return ServerSentEvent({"type": ending})


urlpatterns = [
    path("routed/", include(router.urls)),
    path("tickets/", TicketView.as_view()),
    sse_path("users/", Users),
    sse_path("users/<str:username>/", Users),
    sse_path("orders/<slug:shop>/", Orders),
    sse_path("clock/", Clock),
    sse_path("generate/", Generate),
    sse_path("prices/", Prices),
    sse_path("answers/", Answer),
    sse_path("answers/<str:job>/", Answer),
    sse_path("chat/", Chat),
]
