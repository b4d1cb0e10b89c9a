"""`strict.py HOST CA`: a TLS connection as Python makes it from 3.13 on, with every rule of RFC 5280."""

import socket
import ssl
import sys

host, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
with context.wrap_socket(socket.create_connection((host, 443)), server_hostname=host) as connection:
    print(connection.version())
