"""The shop's addresses: streams stand beside ordinary views."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from django_sse import sse_path

from .streams import Clock, Generate, Orders, Serialization
from .views import LivePage, PlaceOrder

urlpatterns = [
    path("", LivePage.as_view(), name="live"),
    sse_path("serialization/", Serialization, name="serialization"),
    sse_path("clock/", Clock, name="clock"),
    sse_path("orders/", Orders, name="orders"),
    sse_path("generate/", Generate, name="generate"),
    path("orders/place/", PlaceOrder.as_view(), name="place-order"),
    path("login/", LoginView.as_view(template_name="shop/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
