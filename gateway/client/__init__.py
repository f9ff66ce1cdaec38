"""What `n8n-gateway call` calls with: one caller of the API, over every door.

::

    methods    which method a name means
    caller     who calls, and where; the request's headers and its signature
    failure    how a call ends that does not end well
    unreachable
               why there was no answer at all
    rest  connect  grpc
               one way each: a request's message there, JSON back as it comes
"""
