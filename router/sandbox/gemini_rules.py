"""Rules between Gemini contents: call and response pairing, thought signatures, the last role (G-FC, G-SIG,
G-THINK; 2026-11).

Rule: every function call is answered, one response per call, in the next content; on Gemini 3 and later the
first call of each step of the current turn carries its thought signature back, unchanged and beside the
same call.
"""

from __future__ import annotations

from router.sandbox.gemini_contents import Content
from router.sandbox.gemini_errors import invalid
from router.sandbox.gemini_models import GeminiModel
from router.sandbox.signatures import subject
from router.sandbox.wire import encode


def check_turns(contents: tuple[Content, ...], model: GeminiModel) -> None:
    """Check pairing, order and signatures over all contents.

    Raises:
        GoogleError: for the first offence found.
    """
    for i, turn in enumerate(contents):
        calls = turn.of("call")
        if calls:
            if i == 0 or contents[i - 1].role != "user":
                raise invalid(
                    "Please ensure that function call turn comes immediately after a user turn or after a "
                    "function response turn."
                )
            _check_responses(turn, contents[i + 1] if i + 1 < len(contents) else None)
        elif turn.of("response"):
            _check_called(contents[i - 1] if i else None)

        if not model.levels and any(part.attached for part in turn.parts):
            raise invalid("Multimodal function responses are not supported for this model.", f"contents[{i}]")

    if contents[-1].role == "model" and model.levels:
        raise invalid(
            "The last content must not have the role 'model': prefilled answers are not supported.",
            "contents",
        )
    if model.signatures:
        _check_signatures(contents)


def _check_responses(turn: Content, following: Content | None) -> None:
    calls = turn.of("call")
    responses = following.of("response") if following is not None else ()
    if len(responses) != len(calls):
        raise invalid(
            "Please ensure that the number of function response parts is equal to the number of function "
            "call parts of the function call turn."
        )
    waiting = list(calls)
    for response in responses:
        match = next(
            (c for c in waiting if c.name == response.name and response.call_id in (None, c.call_id)), None
        )
        if match is None or (match.call_id is not None and response.call_id is None):
            raise invalid(
                f"Function response {response.name} does not match a function call of the previous turn."
            )
        waiting.remove(match)


def _check_called(before: Content | None) -> None:
    if before is None or not before.of("call"):
        raise invalid(
            "Please ensure that function response turn comes immediately after a function call turn."
        )


def current_turn(contents: tuple[Content, ...]) -> int:
    """Return the index of the latest user content that is not only function responses (0 if there is
    none)."""
    for i in range(len(contents) - 1, -1, -1):
        if contents[i].role == "user" and any(p.kind != "response" for p in contents[i].parts):
            return i
    return 0


def _check_signatures(contents: tuple[Content, ...]) -> None:
    start = current_turn(contents)
    for i, turn in enumerate(contents):
        calls = turn.of("call")
        for call in calls:
            thought = call.thought_of
            if thought is not None and thought.subject != subject(call.name, encode(call.args).decode()):
                raise invalid("Thought signature is not valid for this function call.", f"contents[{i}]")
        if i > start and calls and calls[0].signature is None:
            raise invalid(
                f"Function call `{calls[0].name}` in the `{i + 1}.` content block is missing a "
                "`thought_signature`."
            )
