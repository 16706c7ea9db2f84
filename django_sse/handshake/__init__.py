"""From a request to a connection: DRF's policies, limits, and the response on its way out.

``asgi``, the session and the views import it. It promises that a stream begins only after every
policy has passed, that a refusal is a plain HTTP error as JSON, and that a place which was taken is
given back.
"""
