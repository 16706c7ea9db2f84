"""``ModelSSEView``: the rows of a queryset, as one user may see them, kept up to date."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model, QuerySet
from django.db.models.query import RawQuerySet
from rest_framework.filters import BaseFilterBackend
from rest_framework.settings import api_settings

from django_sse.conf import FromSettings, conf
from django_sse.connection.outbox import HIGH_WATER
from django_sse.connection.stream import defines
from django_sse.exceptions import StreamClosed
from django_sse.handshake.recheck import renewed
from django_sse.monitoring.metrics import counters
from django_sse.topics.hub import get_hub
from django_sse.topics.rendering import default_renderer_class
from django_sse.views import SSEView
from django_sse.wire.events import encode_fields
from django_sse.wire.serialization import SerializerClass, find_serializer

from .changes import watch
from .group import group_for
from .paths import DependsOn, paths_of
from .plan import (
    Format,
    Plan,
    check_lookup,
    check_queryset,
    chosen_database,
    is_json,
    is_pk,
    key_name,
    query_key,
)
from .protocol import UNFINISHED, RowEvents, events_of
from .single import first_or_404, judges_objects, permits_row
from .subscription import RowSubscription


class ModelSSEView(SSEView):
    """The rows of a queryset as a stream: a snapshot, and then what is created, changed, deleted.

    Name ``queryset`` and ``serializer_class``, as for DRF's ``ModelViewSet``, and route it with a
    DRF router or ``sse_path()``. A route with ``lookup_field`` streams one row.

    Each client gets the rows that ``filter_queryset(get_queryset())`` finds for its request, and no
    others: a row that leaves them is sent as ``deleted``, and one that enters as ``created``.
    Changes are those that Django's signals or the triggers of ``stream_triggers()`` see, after the
    commit, in any process, and those that ``publish_changes()`` is given. Every change that reaches
    the process is checked against the database before anything is sent; what is sent is what the
    same query has read.

    Clients that reconnect to the same process resume; others get ``reset`` and a new snapshot.
    Raises ``ImproperlyConfigured`` for a queryset that is sliced, combined or of ``values()``, and
    for a serializer without the primary key.
    """

    #: The rows, as for DRF's views; ``get_queryset()`` may choose by the request.
    queryset: QuerySet[Any] | None = None
    #: The serializer of the rows. By default, the one of ``@serializes``.
    serializer_class: SerializerClass | None = None
    #: The field by which a URL names a row, and clients know it.
    lookup_field: str = "pk"
    #: The name of the URL's argument; by default, ``lookup_field``.
    lookup_url_kwarg: str | None = None
    #: Filters that narrow the queryset by the request's query, as in DRF.
    filter_backends: Sequence[type[BaseFilterBackend]] = cast(
        "Sequence[type[BaseFilterBackend]]", api_settings.DEFAULT_FILTER_BACKENDS
    )
    #: For django-filter's backend.
    filterset_class: Any = None
    #: For django-filter's backend, in the place of ``filterset_class``.
    filterset_fields: Any = None
    #: Models whose changes the rows show, and the way from each to the rows:
    #: ``{Customer: "order_set"}``.
    depends_on: ClassVar[DependsOn] = {}
    #: Whether the serializer needs the request. Then no text and no query is shared.
    serializer_needs_request: bool = False
    #: Rows of one query of the snapshot.
    snapshot_page: int = 200

    # A DRF router asks for these, and gives them to as_view().
    suffix: str | None = None
    basename: str | None = None
    detail: bool | None = None
    name: str | None = None
    description: str | None = None

    _own_keys = ("_plan",)
    _plan: Plan | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the attributes, declare the events, and begin to publish the model's changes."""
        if "events" not in vars(cls) and cls.serializer_class is not None:
            cls.events = events_of(cls.serializer_class, cls._model_of_class(), cls.lookup_field)
        super().__init_subclass__(**kwargs)
        for attribute in ("topics", "rewind"):
            if getattr(cls, attribute):
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.{attribute} has no meaning: a ModelSSEView sends rows. Use "
                    "an SSEView for the topics of other events."
                )
        for hook in ("get_topics", "serialize", "snapshot"):
            if defines(cls, ModelSSEView, hook):
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.{hook}() takes the place of what ModelSSEView needs for its "
                    "own working. Change the queryset or the serializer."
                )
        for hook in ("get_queryset", "filter_queryset", "get_serializer_class"):
            if iscoroutinefunction(getattr(cls, hook)):
                raise ImproperlyConfigured(
                    f"{cls.__qualname__}.{hook}() must be a plain `def`, as in DRF: it runs in a "
                    "thread, where it may query."
                )
        if cls.overflow == "drop_oldest":
            raise ImproperlyConfigured(
                f'{cls.__qualname__}.overflow must be "close" or "latest", got "drop_oldest": a '
                "client cannot keep its copy up to date when changes are left out."
            )
        cls._watch_models()

    @classmethod
    def as_view(cls, actions: Any = None, **initkwargs: Any) -> Any:
        """Return the view for ``urls.py``. ``actions`` is what a DRF router says."""
        if isinstance(cls.events, RowEvents) and "events" not in initkwargs:
            given = {"serializer_class", "queryset", "lookup_field"}.intersection(initkwargs)
            serializer_class = initkwargs.get("serializer_class", cls.serializer_class)
            if given and serializer_class is not None:
                queryset = initkwargs.get("queryset", cls.queryset)
                lookup = initkwargs.get("lookup_field", cls.lookup_field)
                model = getattr(queryset, "model", None)
                initkwargs["events"] = events_of(serializer_class, model, lookup)
        view = super().as_view(**initkwargs)
        if not {"queryset", "serializer_class", "depends_on", "lookup_field"}.isdisjoint(
            initkwargs
        ):
            cls._watch_models(initkwargs)
        if actions is not None:
            # Schema tools take a view with the attribute for a viewset of a router.
            view.actions = actions
        return view

    @classmethod
    def get_extra_actions(cls) -> list[Any]:
        """Return none, for a DRF router."""
        return []

    def get_queryset(self) -> QuerySet[Any]:
        """Return the rows that this request may see; by default, ``queryset``. Runs in a thread."""
        if self.queryset is None:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} must have a `queryset`, or define `get_queryset()`."
            )
        return self.queryset.all()

    def is_of_one_row(self, arguments: Container[str]) -> bool:
        """Return whether a route streams one row: a router says so, or the URL's arguments do."""
        named = (self.lookup_url_kwarg or self.lookup_field) in arguments
        return named if self.detail is None else self.detail

    def get_serializer_class(self) -> SerializerClass:
        """Return the serializer of this request; by default, ``serializer_class``."""
        found = self.serializer_class
        if found is None and (model := self._model_of_class()) is not None:
            found = find_serializer(model, self.serializer_classes)
        if found is None:
            raise ImproperlyConfigured(
                f"{type(self).__qualname__} must have a `serializer_class`, or define "
                "`get_serializer_class()`."
            )
        return found

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the rows by the request's query, with ``filter_backends``."""
        for backend in self.filter_backends:
            # django-filter and DRF's own take any view with a queryset.
            queryset = backend().filter_queryset(self.request, queryset, self)
        return queryset

    async def get_topics(self) -> Sequence[str]:
        """Return the topics of the changes of which the stream hears."""
        return () if self._plan is None else self._plan.topics

    async def snapshot(self) -> None:
        """Send ``begin``, every row as ``created``, and ``end``."""
        subscription, plan = self._subscription, self._plan
        assert isinstance(subscription, RowSubscription)
        assert plan is not None
        await self._put(encode_fields(plan.begin(), "begin", UNFINISHED))
        after: Any = None
        while True:
            page = await subscription.group.page(after, self.snapshot_page)
            after = page.following
            counters.sent += page.rows
            await self._put(page.data)
            if after is None:
                break
        await self._put(encode_fields("{}", "end", str(subscription.cursor)))

    # For a DRF router, which looks for the actions of a viewset.
    list = retrieve = SSEView.get

    @classmethod
    def _watch_models(cls, given: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Let this process publish changes of the models, although it may never open a stream.

        A view that has only ``get_queryset()`` names its model by the serializer. ``given`` are the
        attributes that ``as_view()`` replaces.
        """
        name = cls.__qualname__
        depends_on = given.get("depends_on", cls.depends_on)
        queryset = given.get("queryset", vars(cls).get("queryset", cls.queryset))
        if isinstance(queryset, RawQuerySet | list | tuple | type):
            check_queryset(name, queryset)
        if isinstance(queryset, QuerySet):
            check_queryset(name, queryset)
            check_lookup(name, queryset.model, given.get("lookup_field", cls.lookup_field))
            paths = paths_of(name, queryset.model, depends_on)
            watch(queryset.model, paths, chosen_database(queryset))
            return
        for changed in depends_on:
            watch(changed, ())
        serializer_class = given.get("serializer_class", cls.serializer_class)
        model: Any = getattr(getattr(serializer_class, "Meta", None), "model", None)
        if model is not None:
            # The queryset may be of another model. Its paths are checked when a stream opens.
            with suppress(ImproperlyConfigured):
                watch(model, paths_of(name, model, depends_on))
            watch(model, ())

    @classmethod
    def _model_of_class(cls) -> type[Model] | None:
        found: Any = vars(cls).get("queryset", cls.queryset)
        return found.model if isinstance(found, QuerySet) else None

    async def _prepare_topics(self) -> None:
        self._plan = await sync_to_async(self._find_plan)(anew=True)
        await super()._prepare_topics()

    def _find_plan(self, *, anew: bool) -> Plan:
        """Return what the stream sends; raise the refusal of a single row, at the beginning."""
        name = type(self).__qualname__
        queryset = self.filter_queryset(self.get_queryset())
        check_queryset(name, queryset)
        model, key = queryset.model, query_key(queryset)
        check_lookup(name, model, self.lookup_field)
        paths = paths_of(name, model, self.depends_on)
        watch(model, paths, chosen_database(queryset))
        permits = None
        argument = self.lookup_url_kwarg or self.lookup_field
        if self.is_of_one_row(self.kwargs):
            wanted = {self.lookup_field: self.kwargs[argument]}
            if anew:
                self.check_object_permissions(self.request, first_or_404(queryset, wanted))
            queryset = queryset.filter(**wanted)
            key = query_key(queryset)
            if any(map(judges_objects, self.get_permissions())):
                permits = partial(permits_row, self)
        context = None
        if self.serializer_needs_request or defines(
            type(self), ModelSSEView, "get_serializer_context"
        ):
            context = self.get_serializer_context
        owner = None
        if not (context is None and permits is None):
            # A plan of one connection is equal to no other plan.
            owner = object() if self._plan is None else self._plan.owner
        form = self._format(model)
        key = (type(self), model, key, form, tuple(paths), owner)
        return Plan(
            queryset, form, key=key, paths=paths, owner=owner, context=context, permits=permits
        )

    def _format(self, model: type[Model]) -> Format:
        name = type(self).__qualname__
        serializer_class: Any = self.get_serializer_class()
        own: Any = self.renderer_class
        renderer = default_renderer_class() if isinstance(own, FromSettings) else own
        if not is_json(renderer):
            raise ImproperlyConfigured(
                f"{name}.renderer_class must be a JSON renderer, got {renderer!r}: clients read the "
                "keys of rows in JSON."
            )
        key = key_name(name, serializer_class, model, self.lookup_field)
        return Format(serializer_class, renderer, key, is_pk(model, self.lookup_field))

    async def _subscribe(self, *, anew: bool) -> None:
        assert self._outbox is not None
        assert self._plan is not None
        if self.close_reason is not None:
            raise StreamClosed(self._closed_text())
        if self._subscription is not None:
            self._subscription.close()
        group = group_for(self._plan, get_hub())
        # Connections of a group share its plan, and let go of their own.
        self._plan = group.plan
        self._rewinds = False
        subscription = self._subscription = RowSubscription(
            self._outbox,
            overflow=self.overflow,
            limit=conf.outbox_limit if self.outbox_limit is None else self.outbox_limit,
            client=None,
            owner=self,
        )
        seen = None if anew else self.last_event_id or None
        await subscription.enter(group, seen)
        self.subscribed = True
        self.resumed = subscription.resumed
        if anew or (seen is not None and not self.resumed):
            await self.send("{}", event="reset")

    async def _put(self, data: bytes) -> None:
        outbox = self._outbox
        if outbox is None or self.close_reason is not None or outbox.gone:
            raise StreamClosed(self._closed_text())
        outbox.put(data)
        if outbox.size >= HIGH_WATER:
            await outbox.drain()

    async def _is_still_allowed(self) -> bool:
        """Ask for the user's rows again, too: they may be others now."""
        plan = await sync_to_async(self._plan_now)()
        if plan is None:
            return False
        if self._plan is not None and plan.key != self._plan.key:
            self._plan = plan
            self.start_anew()
        return True

    def _plan_now(self) -> Plan | None:
        request = renewed(self)
        if request is None:
            return None
        self.request.user = request.user
        return self._find_plan(anew=False)

    def _let_go(self) -> None:
        super()._let_go()
        self._plan = None
