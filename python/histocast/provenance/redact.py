"""Secrets that a parameter may carry by accident. `main.nf` refuses them; this is for whoever gets past it."""

from __future__ import annotations

import re

HIDDEN = "REDACTED"

# user:password@ of an address, and what query strings call a key.
_USERINFO = re.compile(r"(?<=://)[^/@\s,]+(?=@)")
_QUERY_KEY = re.compile(
    r"(?i)([?&;][^=&;\s]*(?:token|secret|password|passwd|signature|credential|apikey|api_key|sig|key)[^=&;\s]*=)[^&;\s,]+"
)


def redact(text: str) -> str:
    """Return the text without what looks like a key of somebody's.

    >>> redact("grpc://me:hunter2@gpu:8001")
    'grpc://REDACTED@gpu:8001'
    >>> redact("https://store/panel.txt?X-Amz-Signature=abc&part=1")
    'https://store/panel.txt?X-Amz-Signature=REDACTED&part=1'
    """
    return _QUERY_KEY.sub(rf"\1{HIDDEN}", _USERINFO.sub(HIDDEN, text))
