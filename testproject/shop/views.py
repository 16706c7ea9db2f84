"""The shop's ordinary views: its page, and what the page's buttons do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.views.generic import TemplateView
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from .ordering import place_random_order
from .serializers import OrderSerializer

try:
    from drf_spectacular.utils import extend_schema
except ImportError:  # The demo runs without drf-spectacular, too.

    def extend_schema(**described: Any) -> Callable[[Any], Any]:
        return lambda view: view


class LivePage(TemplateView):
    """The page on which the streams' events arrive."""

    template_name = "shop/live.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        # The demo's login is no secret while DEBUG is on, and does not exist elsewhere.
        return super().get_context_data(debug=settings.DEBUG, **kwargs)


class RefusalSerializer(serializers.Serializer):
    """Why there is no order."""

    detail = serializers.CharField()


class PlaceOrder(APIView):
    """Create a random order, which then arrives on the page by its stream."""

    permission_classes = [IsAuthenticated]

    @extend_schema(
        request=None,
        responses={201: OrderSerializer, 403: RefusalSerializer, 409: RefusalSerializer},
    )
    def post(self, request: Request) -> Response:
        order = place_random_order()
        if order is None:
            return Response(
                {"detail": "The shop is empty: run `python manage.py sampledata` first."},
                status=status.HTTP_409_CONFLICT,
            )
        return Response(OrderSerializer(order).data, status=status.HTTP_201_CREATED)
