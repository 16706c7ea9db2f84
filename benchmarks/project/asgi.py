"""The entry point of the servers."""

import gc
import os

from django_sse.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.project.settings")

if "BENCHMARK_GC" in os.environ:
    # As the documentation of many streams recommends it.
    gc.set_threshold(50_000, 20, 100)

application = get_asgi_application()
