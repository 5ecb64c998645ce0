"""Cases of what is sent: texts, layers, media, and histories."""

from base64 import b64encode

from router.call import ContextPlacement, Document, Effort, Identity, Image, Text, Thinking
from router.sandbox import Text as ScriptedText
from router.sandbox.signatures import Thought, seal, subject
from tests.contract.cases import ABSENT, FLASH, OPUS, Case, assistant, both, call, user

PNG = b"\x89PNG" + bytes(60)
PDF = b"%PDF-1.7 of one page"
GIF, TIFF = Image("image/gif", b"GIF89a"), Image("image/tiff", b"II*")
_PDF64 = b64encode(PDF).decode()


def _image(media_type: str) -> Case:
    data = b64encode(PNG).decode()
    return Case(
        name=f"an image of type {media_type} goes by value",
        call=call(user("What is it?", Image(media_type, PNG))),
        sent={
            "anthropic": {
                "messages.0.content.1": {
                    "type": "image",
                    "source": {"type": "base64", "media_type": media_type, "data": data},
                }
            },
            "gemini": {"contents.0.parts.1": {"inlineData": {"mimeType": media_type, "data": data}}},
        },
    )


TEXTS = [
    Case(
        name="one text",
        call=call("Say hello."),
        sent={
            "anthropic": {
                "model": OPUS,
                "max_tokens": 600,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
                "system": ABSENT,
                "tools": ABSENT,
                "tool_choice": ABSENT,
                "thinking": ABSENT,
                "output_config": ABSENT,
                "temperature": ABSENT,
            },
            "gemini": {
                "contents": [{"role": "user", "parts": [{"text": "Say hello."}]}],
                "generationConfig": {"maxOutputTokens": 600},
                "systemInstruction": ABSENT,
                "tools": ABSENT,
                "cachedContent": ABSENT,
                "store": False,
            },
        },
    ),
    Case(
        name="parts of one message stay apart",
        call=call(user("One.", "Two.")),
        sent={
            "anthropic": {"messages.0.content.1.text": "Two."},
            "gemini": {"contents.0.parts.1.text": "Two."},
        },
    ),
    Case(
        name="neighbours of one role become one turn",
        call=call("One.", "Two.", assistant("A."), assistant("B."), "Three."),
        sent={
            "anthropic": {
                "messages.1.role": "assistant",
                "messages.1.content.1.text": "B.",
                "messages.3": ABSENT,
            },
            "gemini": {"contents.1.role": "model", "contents.1.parts.1.text": "B.", "contents.3": ABSENT},
        },
    ),
    Case(
        name="system texts keep their order",
        call=call("Go.", system=("First.", "Second.")),
        sent={
            "anthropic": {"system.1": {"type": "text", "text": "Second."}},
            "gemini": {"systemInstruction": {"parts": [{"text": "First."}, {"text": "Second."}]}},
        },
    ),
    Case(
        name="a user context opens the conversation",
        call=call("Go.", context=("The user is Ann.",)),
        sent={
            "anthropic": {
                "messages.0.content.0.text": "The user is Ann.",
                "messages.0.content.1.text": "Go.",
            },
            "gemini": {"contents.0.parts.0.text": "The user is Ann.", "contents.0.parts.1.text": "Go."},
        },
    ),
    Case(
        name="a user context after the history stands with the current turn",
        call=call(
            "Old.",
            assistant("A."),
            "New.",
            context=("The user is Ann.",),
            context_placement=ContextPlacement.AFTER_HISTORY,
        ),
        sent={
            "anthropic": {
                "messages.0.content.1": ABSENT,
                "messages.3.role": "system",
                "messages.3.content.0.text": "The user is Ann.",
            },
            "gemini": {"contents.0.parts.1": ABSENT, "contents.2.parts.0.text": "The user is Ann."},
        },
    ),
    Case(
        name="text arrives letter by letter as it was",
        call=call('Say "hi" \\ and ünïcödé 🦊\u2028\n\ttab\x7f'),
        sent={
            "anthropic": {"messages.0.content.0.text": 'Say "hi" \\ and ünïcödé 🦊\u2028\n\ttab\x7f'},
            "gemini": {"contents.0.parts.0.text": 'Say "hi" \\ and ünïcödé 🦊\u2028\n\ttab\x7f'},
        },
    ),
    Case(
        name="blank text in a history is left out",
        call=call("Go.", assistant("\n\n", "A."), user("Why?", " ")),
        sent={
            "anthropic": {
                "messages.1.content": [{"type": "text", "text": "A."}],
                "messages.2.content.1": ABSENT,
            },
            "gemini": {"contents.1.parts": [{"text": "A."}], "contents.2.parts.1": ABSENT},
        },
    ),
    Case(name="a long text is sent whole", call=call("Read this. " * 4000), says=(ScriptedText("Read."),)),
    Case(
        name="a long history is sent whole",
        call=call(*[m for n in range(40) for m in (user(f"Q{n}"), assistant(f"A{n}"))], "And now?"),
        sent={
            "anthropic": {"messages.79.content.0.text": "A39"},
            "gemini": {"contents.79.parts.0.text": "A39"},
        },
    ),
    Case(
        name="who asks is not told",
        call=call(
            "Go.",
            identity=Identity(
                request_id="r-7", tenant="t-7", user="u-7", session="s-7", labels={"team": "l-7"}
            ),
        ),
        sent={"anthropic": {"metadata": ABSENT}, "gemini": {"labels": ABSENT, "store": False}},
    ),
    Case(
        name="a prefilled answer is refused",
        call=call("Go.", assistant("Sure")),
        refused=both("messages[1].role"),
    ),
    Case(
        name="a conversation the model opens is refused",
        call=call(assistant("Hello."), "Go."),
        refused=both("messages[0].role"),
    ),
    Case(name="nothing to say is refused", call=call(user(" ")), refused=both("messages")),
]

MEDIA = [
    *map(_image, ("image/png", "image/jpeg", "image/webp")),
    Case(
        name="a GIF is refused by the one that takes none",
        call=call(user(GIF, "What is it?")),
        sent={"anthropic": {"messages.0.content.0.source.media_type": "image/gif"}},
        refused={"gemini": "messages[0].parts[0].image.media_type"},
    ),
    Case(
        name="an image of a type neither takes is refused",
        call=call(user("What is it?", TIFF)),
        refused=both("messages[0].parts[1].image.media_type"),
    ),
    Case(
        name="a PDF goes by value, its title where there is a place for it",
        call=call(user(Document("application/pdf", PDF, "Terms"), "Sum up.")),
        sent={
            "anthropic": {
                "messages.0.content.0": {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": _PDF64},
                    "title": "Terms",
                }
            },
            "gemini": {"contents.0.parts.0": {"inlineData": {"mimeType": "application/pdf", "data": _PDF64}}},
        },
    ),
    Case(
        name="a text document stays a document",
        call=call(user(Document("text/plain", "Größe".encode()), "Sum up.")),
        sent={
            "anthropic": {
                "messages.0.content.0": {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Größe"},
                }
            },
            "gemini": {
                "contents.0.parts.0.inlineData": {
                    "mimeType": "text/plain",
                    "data": b64encode("Größe".encode()).decode(),
                }
            },
        },
    ),
    Case(
        name="a document of a type neither takes is refused",
        call=call(user(Document("application/msword", b"x"), "Sum up.")),
        refused=both("messages[0].parts[0].document.media_type"),
    ),
    Case(
        name="media and texts keep their order, in old turns too",
        call=call(
            user(Image("image/png", PNG), "this", Document("application/pdf", PDF), "that"),
            assistant("A."),
            user("and", Image("image/webp", PNG)),
        ),
        sent={
            "anthropic": {"messages.0.content.2.type": "document", "messages.2.content.1.type": "image"},
            "gemini": {
                "contents.0.parts.2.inlineData.mimeType": "application/pdf",
                "contents.2.parts.1.inlineData.mimeType": "image/webp",
            },
        },
    ),
    Case(
        name="an image by the model is refused",
        call=call("Go.", assistant(Image("image/png", PNG)), "More."),
        refused=both("messages[1].parts[0]"),
    ),
]


def signed(model: str, shown: str = "") -> Thinking:
    """Thinking of a model, signed as the sandbox does."""
    return Thinking(model, shown, seal(Thought(model, 30, subject(shown), "")))


THOUGHTS = [
    Case(
        name="each model gets back its own thinking and nobody else's",
        call=call("Go.", assistant(signed(OPUS, "hm"), signed(FLASH, "so"), "A."), "More."),
        sent={
            "anthropic": {
                "messages.1.content.0": {
                    "type": "thinking",
                    "thinking": "hm",
                    "signature": signed(OPUS, "hm").signature,
                },
                "messages.1.content.1.type": "text",
            },
            "gemini": {
                "contents.1.parts.0": {
                    "text": "so",
                    "thought": True,
                    "thoughtSignature": signed(FLASH, "so").signature,
                },
                "contents.1.parts.1": {"text": "A."},
            },
        },
    ),
    Case(
        name="unsigned thinking is left out",
        call=call("Go.", assistant(Thinking(OPUS, "hm", ""), Thinking(FLASH, "so", ""), "A."), "More."),
        sent={
            "anthropic": {"messages.1.content": [{"type": "text", "text": "A."}]},
            "gemini": {"contents.1.parts": [{"text": "A."}]},
        },
    ),
    Case(
        name="encrypted thinking goes back to its model",
        call=call("Go.", assistant(Thinking(OPUS, "", "b3BhcXVl", redacted=True), "A."), "More."),
        sent={
            "anthropic": {"messages.1.content.0": {"type": "redacted_thinking", "data": "b3BhcXVl"}},
            "gemini": {"contents.1.parts": [{"text": "A."}]},
        },
    ),
    Case(
        name="a message of foreign thinking alone disappears",
        call=call("Go.", assistant(signed("claude-opus-4-7")), "More."),
        sent={
            "anthropic": {"messages.0.content.1.text": "More.", "messages.1": ABSENT},
            "gemini": {"contents.0.parts.1.text": "More.", "contents.1": ABSENT},
        },
    ),
    Case(
        name="the signature on a text goes back to its model",
        call=call("Go.", assistant(Text("A.", signed(FLASH).signature, FLASH)), "More."),
        sent={
            "anthropic": {"messages.1.content.0": {"type": "text", "text": "A."}},
            "gemini": {
                "contents.1.parts.0": {"text": "A.", "thoughtSignature": signed(FLASH).signature},
            },
        },
    ),
    Case(
        name="a signature without words goes back to its model",
        call=call("Go.", assistant("A.", Text("", signed(FLASH).signature, FLASH)), "More."),
        sent={
            "anthropic": {"messages.1.content.1": ABSENT},
            "gemini": {"contents.1.parts.1": {"text": "", "thoughtSignature": signed(FLASH).signature}},
        },
    ),
]

_LEVELS = {  # asked: what Opus 5.5 and Flash 3.8 are told; medium is their default and goes without saying
    None: (ABSENT, ABSENT),
    Effort.LOW: ("low", "LOW"),
    Effort.MEDIUM: (ABSENT, ABSENT),
    Effort.HIGH: ("high", "HIGH"),
    Effort.XHIGH: ("xhigh", "HIGH"),
    Effort.MAX: ("max", "HIGH"),
}
EFFORTS = [
    Case(
        name=f"effort {effort.value if effort else 'left open'} becomes the model's own level",
        call=call("Go.", effort=effort),
        sent={
            "anthropic": {"output_config.effort": opus},
            "gemini": {"generationConfig.thinkingConfig.thinkingLevel": flash},
        },
    )
    for effort, (opus, flash) in _LEVELS.items()
]

CASES = [*TEXTS, *MEDIA, *THOUGHTS, *EFFORTS]
