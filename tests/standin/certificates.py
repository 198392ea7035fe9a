"""Makes a certificate authority for a test, and a certificate of 127.0.0.1 by it."""

import os
import shutil
import subprocess
from collections import namedtuple

Authority = namedtuple("Authority", "ca chain key")  # paths; give (chain, key) to Jenkins(tls=...), ca to the client

# Whole as RFC 5280 wants them: since 3.13 Python verifies strictly.
_EXTENSIONS = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


def available():
    """Whether certificates can be made here."""
    return shutil.which("openssl") is not None


def make(directory, name="sensu-lxc test CA"):
    """A fresh Authority in a directory."""
    os.makedirs(directory, exist_ok=True)
    ca, ca_key, chain, key, request, settings = (
        os.path.join(directory, file) for file in ("ca.pem", "ca.key", "chain.pem", "server.key", "server.csr", "cnf")
    )
    with open(settings, "w", encoding="utf-8") as file:
        file.write(_EXTENSIONS)
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", settings]
    authority = ["-x509", "-extensions", "authority", "-subj", f"/CN={name}", "-days", "2"]
    _openssl("req", *new_key, *authority, "-keyout", ca_key, "-out", ca)
    _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", settings]
    _openssl("x509", "-req", "-in", request, *signing, "-extensions", "server", "-out", chain)
    return Authority(ca, chain, key)


def _openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
