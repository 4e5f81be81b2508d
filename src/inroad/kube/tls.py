"""TLS settings for an API server, as Go's clients would have them."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from inroad.core.errors import CredentialsRejected, InroadError
from inroad.kube.credentials import Credentials


def material(credentials: Credentials) -> tuple[object, ...]:
    """Return what the settings are made of: when it is the same, so are they."""
    return (
        credentials.ca_pem,
        credentials.client_cert_pem,
        credentials.client_key_pem,
        credentials.insecure,
    )


def context(credentials: Credentials) -> ssl.SSLContext:
    """Make the TLS settings. Raises `ApiCertificate` or `CredentialsRejected` for PEM that is none."""
    try:
        context = ssl.create_default_context(cadata=credentials.ca_pem or None)
    except ssl.SSLError as error:
        raise _wrong_pem("certificate-authority", error) from error
    # As Go checks: a CA needs no key identifiers, and an intermediate one may be the anchor.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if credentials.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if credentials.client_cert_pem:
        with tempfile.TemporaryDirectory(prefix="inroad-") as directory:  # mode 0700; ssl reads files only
            pem = Path(directory, "client.pem")
            pem.write_text(f"{credentials.client_cert_pem}\n{credentials.client_key_pem}\n")
            try:
                context.load_cert_chain(pem)
            except ssl.SSLError as error:
                raise _wrong_pem("client-certificate or client-key", error) from error
    return context


def _wrong_pem(what: str, error: ssl.SSLError) -> InroadError:
    return CredentialsRejected(
        f"{what} of the kubeconfig is not usable: {error.reason or error}", "kubectl config view --raw"
    )
