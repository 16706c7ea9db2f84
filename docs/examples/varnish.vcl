# Varnish in front of a project with streams: /etc/varnish/default.vcl.

vcl 4.1;

backend project {
    .host = "127.0.0.1";
    .port = "8000";
}

sub vcl_recv {
    # An EventSource sends this header. Do not cache its stream: connect browser and server directly.
    if (req.http.Accept ~ "text/event-stream") {
        return (pipe);
    }
}

sub vcl_pipe {
    # Use this connection only for the stream. Otherwise Varnish would pass later requests on unseen.
    set bereq.http.Connection = "close";
}

# How long a stream may be silent is the parameter pipe_timeout: `varnishd -p pipe_timeout=60`, its
# default, in seconds. It has to be above the heartbeat's period, which is 15 by default.
