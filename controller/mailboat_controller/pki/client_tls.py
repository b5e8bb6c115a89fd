"""TLS towards our own broker, as one of our own clients."""

import ssl

from mailboat_controller.pki.issuing import TlsFiles


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Trusts the fleet's CA alone, and shows the certificate."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.certificate, files.key)
    return context
