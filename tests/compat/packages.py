"""Servers, middleware and apps."""

from __future__ import annotations

from .stranger import SWITCHES, Stranger

_DRF = "rest_framework.authentication"
_TENANTS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
_SHARED = ["django_tenants", "tests.compat.project.tenants", *_TENANTS]

SERVERS = (
    Stranger("nothing", switched_on="the bench's project by itself"),
    Stranger(
        "a synchronous Django middleware",
        switched_on="`MIDDLEWARE`, first",
        middleware_first=("tests.compat.project.middleware.Synchronous",),
        sighting="synchronous",
        sees="its header is on the stream",
    ),
    Stranger(
        "a pure ASGI middleware",
        switched_on="around the application; passes on a copy of `scope`, and functions of its own",
        wrapper=f"{SWITCHES}.passing_on",
        sighting="passed_on",
        sees="its header is on the stream",
    ),
    Stranger(
        "a pure ASGI middleware, Daphne",
        ("daphne",),
        "as above, served by Daphne",
        wrapper=f"{SWITCHES}.passing_on",
        server="daphne",
        sighting="passed_on",
        sees="its header is on the stream",
    ),
    Stranger(
        "gunicorn with uvicorn-worker",
        ("gunicorn", "uvicorn-worker"),
        "`gunicorn -k uvicorn_worker.UvicornWorker`",
        server="gunicorn",
    ),
)

PACKAGES = (
    # Tools of development.
    Stranger(
        "django-debug-toolbar",
        ("django-debug-toolbar",),
        "app and middleware, `DEBUG`",
        apps=("debug_toolbar",),
        middleware_first=("debug_toolbar.middleware.DebugToolbarMiddleware",),
        settings={
            "DEBUG": True,
            "DEBUG_TOOLBAR_CONFIG": {"SHOW_TOOLBAR_CALLBACK": f"{SWITCHES}.always"},
        },
        urls={"__debug__/": "debug_toolbar.urls"},
        sighting="toolbar",
        sees="the toolbar is in pages, and not in streams",
    ),
    Stranger(
        "django-silk",
        ("django-silk",),
        "app and middleware",
        apps=("silk",),
        middleware_first=("silk.middleware.SilkyMiddleware",),
        urls={"silk/": "silk.urls"},
        sighting="silk",
        sees="the request of the stream is recorded, with the time of its handshake",
    ),
    Stranger(
        "django-browser-reload",
        ("django-browser-reload",),
        "app and middleware, `DEBUG`",
        apps=("django_browser_reload",),
        middleware=("django_browser_reload.middleware.BrowserReloadMiddleware",),
        settings={"DEBUG": True},
        urls={"__reload__/": "django_browser_reload.urls"},
        sighting="browser_reload",
        sees="its script is in pages; its own stream and ours run beside each other",
    ),
    Stranger(
        "drf-spectacular",
        ("drf-spectacular",),
        "app and schema class",
        apps=("drf_spectacular",),
        settings={"REST_FRAMEWORK": {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}},
        urls={"schema/": "drf_spectacular.views.SpectacularAPIView"},
        sighting="spectacular",
        sees="the schema lists the streams",
    ),
    Stranger(
        "django-structlog",
        ("django-structlog", "structlog"),
        "app and `RequestMiddleware`",
        apps=("django_structlog",),
        middleware=("django_structlog.middlewares.RequestMiddleware",),
        switch=f"{SWITCHES}.structlog",
        sighting="structlog",
        sees="`streaming_started` and `streaming_finished` are logged with the request's id",
        costs={
            "thread": (
                "Its `RequestMiddleware` wraps the content of streaming responses, so the connection "
                "can't be taken over, and Django's handler holds a thread for each stream. Use the "
                "subclass [below](#the-handlers-and-the-middleware), which leaves streams alone; its "
                "`request_finished` is then logged at the end of the handshake."
            )
        },
    ),
    Stranger(
        "django-structlog, streams left alone",
        ("django-structlog", "structlog"),
        "app, and the middleware of [the remedy](#the-handlers-and-the-middleware)",
        apps=("django_structlog",),
        middleware=("tests.compat.project.remedies.structlog.StreamRequestMiddleware",),
        switch=f"{SWITCHES}.structlog",
        sighting="structlog_handshake",
        sees="`request_finished` is logged at the handshake's end",
    ),
    # What stands before views.
    Stranger(
        "WhiteNoise",
        ("whitenoise",),
        "middleware",
        middleware_first=("whitenoise.middleware.WhiteNoiseMiddleware",),
        settings={
            "WHITENOISE_ROOT": "tests/compat/project/static",
            "WHITENOISE_USE_FINDERS": False,
        },
        sighting="whitenoise",
        sees="it serves its file",
    ),
    Stranger(
        "ServeStatic",
        ("servestatic",),
        "middleware",
        middleware_first=("servestatic.middleware.ServeStaticMiddleware",),
        settings={"SERVESTATIC_ROOT": "tests/compat/project/static"},
        sighting="whitenoise",
        sees="it serves its file",
    ),
    Stranger(
        "ServeStatic, ASGI",
        ("servestatic",),
        "`ServeStaticASGI` around the application",
        wrapper=f"{SWITCHES}.servestatic",
        sighting="servestatic",
        sees="it serves its file",
    ),
    Stranger(
        "django-csp",
        ("django-csp",),
        "app and middleware",
        apps=("csp",),
        middleware=("csp.middleware.CSPMiddleware",),
        settings={"CONTENT_SECURITY_POLICY": {"DIRECTIVES": {"default-src": ["'self'"]}}},
        sighting="csp",
        sees="its header is on the stream",
    ),
    Stranger(
        "django-cors-headers",
        ("django-cors-headers",),
        "app and middleware",
        apps=("corsheaders",),
        middleware_first=("corsheaders.middleware.CorsMiddleware",),
        settings={"CORS_ALLOWED_ORIGINS": ["https://elsewhere.example"]},
        sighting="cors",
        sees="its header is on the stream, and on a refusal",
    ),
    # Users, tenants and permissions.
    Stranger(
        "django-tenants",
        ("django-tenants", "psycopg"),
        "app, engine, router and `TenantMainMiddleware`, on PostgreSQL",
        apps_first=("django_tenants", "tests.compat.project.tenants"),
        middleware_first=("django_tenants.middleware.main.TenantMainMiddleware",),
        engine="django_tenants.postgresql_backend",
        settings={
            "DATABASE_ROUTERS": ["django_tenants.routers.TenantSyncRouter"],
            "TENANT_MODEL": "tenants.Tenant",
            "TENANT_DOMAIN_MODEL": "tenants.Domain",
            "SHARED_APPS": _SHARED,
            "TENANT_APPS": _TENANTS,
        },
        urls={"groups/": "tests.compat.project.tenants.streams.Groups"},
        sighting="tenants",
        sees=(
            "the session of one tenant opens no stream of another; the streams of two tenants, side "
            "by side, read each its own schema, "
            "[as the handshake's page says](handshake.md#the-end-of-the-request)"
        ),
    ),
    Stranger(
        "django-axes",
        ("django-axes",),
        "app, middleware and backend",
        apps=("axes",),
        middleware=("axes.middleware.AxesMiddleware",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "axes.backends.AxesStandaloneBackend",
                "django.contrib.auth.backends.ModelBackend",
            ],
            "AXES_FAILURE_LIMIT": 3,
            "REST_FRAMEWORK": {"DEFAULT_AUTHENTICATION_CLASSES": [f"{_DRF}.BasicAuthentication"]},
        },
        credentials="basic",
        sighting="axes",
        sees="three wrong passwords at a stream's handshake lock the right one out",
    ),
    Stranger(
        "django-allauth",
        ("django-allauth",),
        "apps, middleware and backend",
        apps=("allauth", "allauth.account"),
        middleware=("allauth.account.middleware.AccountMiddleware",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "django.contrib.auth.backends.ModelBackend",
                "allauth.account.auth_backends.AuthenticationBackend",
            ],
            "ACCOUNT_EMAIL_VERIFICATION": "none",
        },
        urls={"accounts/": "allauth.urls"},
        credentials="login",
        sees="the session of its login page opens the stream",
    ),
    Stranger(
        "django-guardian",
        ("django-guardian",),
        "app and backend",
        apps=("guardian",),
        settings={
            "AUTHENTICATION_BACKENDS": [
                "django.contrib.auth.backends.ModelBackend",
                "guardian.backends.ObjectPermissionBackend",
            ]
        },
        urls={"guarded/<int:pk>/": "tests.compat.project.guarded.Guarded"},
        sighting="guardian",
        sees="the permission for one object opens its stream, and no other's",
    ),
    Stranger(
        "Simple JWT",
        ("djangorestframework-simplejwt",),
        "authentication class",
        settings={
            "REST_FRAMEWORK": {
                "DEFAULT_AUTHENTICATION_CLASSES": [
                    "rest_framework_simplejwt.authentication.JWTAuthentication"
                ]
            }
        },
        urls={"token/": "rest_framework_simplejwt.views.TokenObtainPairView"},
        credentials="jwt",
        sees="its token opens the stream; a wrong one is a 401",
    ),
    Stranger(
        "Knox",
        ("django-rest-knox",),
        "app and authentication class",
        apps=("knox",),
        settings={
            "REST_FRAMEWORK": {"DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"]}
        },
        credentials="knox",
        sees="its token opens the stream; a wrong one is a 401",
    ),
)
