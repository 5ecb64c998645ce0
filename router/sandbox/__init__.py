"""An offline emulator of the Anthropic Messages API and the Gemini API.

Rule: it is written from the providers' rules and shares no code with the router, so that it can prove the
router wrong. See README.md for its theory of operation and for every choice it makes where a provider is
silent.
"""

from router.sandbox.clock import Clock, SystemClock, VirtualClock
from router.sandbox.core import Sandbox
from router.sandbox.faults import Fault
from router.sandbox.invoice import Invoice, InvoiceLine, Totals, fingerprint
from router.sandbox.listener import serve
from router.sandbox.replies import Call, Text
from router.sandbox.settings import Latency, RateLimits, SandboxSettings
from router.sandbox.tokens import Family, count
from router.sandbox.wire import ClientTimedOut, ConnectionDropped, WireRequest, WireResponse

__all__ = [
    "Call",
    "ClientTimedOut",
    "Clock",
    "ConnectionDropped",
    "Family",
    "Fault",
    "Invoice",
    "InvoiceLine",
    "Latency",
    "RateLimits",
    "Sandbox",
    "SandboxSettings",
    "SystemClock",
    "Text",
    "Totals",
    "VirtualClock",
    "WireRequest",
    "WireResponse",
    "count",
    "fingerprint",
    "serve",
]
