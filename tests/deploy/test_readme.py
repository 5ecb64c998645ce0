"""What deploy/README.md tells an operator to type is what the service writes and the repository holds."""

import re
from pathlib import Path

from cache.diagnose import MissCause
from classifier.policy import Reason
from router import attributes
from router.v1 import routing_pb2

DEPLOY = Path(__file__).parents[2] / "deploy"
README = (DEPLOY / "README.md").read_text()
REASONS = [value.name for value in routing_pb2.DecisionReason.DESCRIPTOR.values]
TAG = re.compile(r"`((?:hybrid_router|rpc)\.[a-z_.]+)(?:=([\w.]+))?`")


def test_tags_to_search_for_are_written_by_the_service() -> None:
    """Every tag is an attribute's name, and the values shown are of its vocabulary."""
    found = TAG.findall(README)
    names = {value for value in vars(attributes).values() if isinstance(value, str)}
    assert len(found) >= 8
    assert {name for name, _ in found} <= names
    values = {name: value for name, value in found if value}
    assert values[attributes.CACHE_MISS_CAUSE] in set(MissCause)
    wire = {name.removeprefix("DECISION_REASON_").lower() for name in REASONS}
    assert values[attributes.REASON] in wire
    (others,) = re.findall(r"reason=fallback`[^|]*\| (.*) \|", README)
    shown = set(re.findall(r"`(\w+)`", others))
    assert shown
    assert shown <= set(Reason)


def test_links_lead_somewhere() -> None:
    """Every file or directory that is linked is there."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 8
    assert [link for link in links if not (DEPLOY / link).exists()] == []
