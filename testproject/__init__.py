"""A small live shop: the demo of ``django_sse``, and the project its tests run on."""
