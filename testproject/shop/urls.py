"""The shop's addresses: streams stand beside ordinary views."""

from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from django_sse import sse_path

from .html import Revenue, Sales, Tickets
from .pages import Answer, Imports, Prices, Team
from .streams import Clock, Generate, Orders, Serialization
from .views import (
    Break,
    CancelImport,
    HTMLPage,
    LivePage,
    MarketPage,
    Notify,
    PlaceOrder,
    StartImport,
    TeamPage,
    WorkPage,
    advance,
)

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

if settings.HAS_DEMO_PAGES:
    urlpatterns += [
        path("market/", MarketPage.as_view(), name="market"),
        sse_path("market/prices/", Prices, name="prices"),
        path("work/", WorkPage.as_view(), name="work"),
        sse_path("work/imports/", Imports, name="imports"),
        sse_path("work/answers/", Answer, name="ask"),
        sse_path("work/answers/<str:job>/", Answer, name="answer"),
        path("work/imports/start/", StartImport.as_view(), name="start-import"),
        path("work/imports/<int:pk>/cancel/", CancelImport.as_view(), name="cancel-import"),
        path("team/", TeamPage.as_view(), name="team"),
        sse_path("team/stream/", Team, name="team-stream"),
        path("team/notify/", Notify.as_view(), name="notify"),
        path("html/", HTMLPage.as_view(), name="html"),
        sse_path("html/sales/", Sales, name="sales"),
        sse_path("html/tickets/", Tickets, name="tickets"),
        sse_path("html/revenue/", Revenue, name="revenue"),
        path("html/tickets/<int:pk>/advance/", advance, name="advance"),
        path("break/<str:what>/", Break.as_view(), name="break"),
    ]
