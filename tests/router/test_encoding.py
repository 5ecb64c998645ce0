"""Embeddings in serving: beside the event loop, within a bound, and never at the price of a request."""

import asyncio
import threading

import pytest

from classifier.encoder import Embedder, is_embedding
from router import encoding
from router.call import Document, Message, Role
from router.encoding import Encodings
from router.sampling import sample_of, turn_text
from tests.classifier.text_encoders import HashingEncoder
from tests.router.rig import asked, said


class Held(HashingEncoder):
    """An encoder that answers when it is let; the probe it answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.fails = False

    def encode(self, texts):
        self.free.wait(10)
        if self.fails:
            raise RuntimeError("cannot read 'a secret'")
        return super().encode(texts)


@pytest.fixture
def held():
    """The encoder, its encodings with a long wait, and what was told of them."""
    encoder, told = Held(), []
    embedder = Embedder(encoder)
    encoder.texts.clear()
    encodings = Encodings(embedder, wait_s=5.0, tell=told.append)
    yield encoder, encodings, told
    encoder.free.set()
    encodings.close()


async def test_a_turn_is_embedded_as_training_does(held):
    """Its own words, bounded like a sample's, not what was said before."""
    encoder, encodings, told = held
    call = asked(said("First"), said("Answer", Role.ASSISTANT), said("Second " + "x" * 9_000)).call
    found = await encodings.of(call)
    (text,) = encoder.texts
    assert text.startswith("Second x")
    assert len(text) == 4_096
    assert found == Embedder(HashingEncoder()).embed([text])[0]
    assert (told, encodings.used) == (["used"], 1)


async def test_a_turn_without_words_is_not_asked_for(held):
    """A document alone has nothing to embed."""
    encoder, encodings, told = held
    assert await encodings.of(asked(Message(Role.USER, (Document("text/plain", b"x"),))).call) == b""
    assert (encoder.texts, told) == ([], [])


async def test_a_late_encoder_is_not_waited_for_and_its_backlog_is_bounded(held, monkeypatch):
    """The bound passes, the request goes on without; those that would stand in the queue do not even begin to wait."""
    encoder, encodings, told = held
    monkeypatch.setattr(encoding, "PENDING_LIMIT", 2)
    encodings._wait_s = 0.0
    encoder.free.clear()
    for _ in range(3):
        assert await encodings.of(asked(said("Hello")).call) == b""
    assert (told, encodings.late) == (["late"] * 3, 3)
    encoder.free.set()
    encodings._wait_s = 5.0
    monkeypatch.setattr(encoding, "PENDING_LIMIT", 3)
    assert is_embedding(await encodings.of(asked(said("Last")).call))
    assert encoder.texts == ["Hello", "Hello", "Last"]  # the third was turned away


async def test_a_failing_encoder_fails_no_request_and_tells_no_text(held, caplog):
    """It is said once in a while; the request is scored by words and structure."""
    encoder, encodings, told = held
    encoder.fails = True
    for _ in range(2):
        assert await encodings.of(asked(said("Hello")).call) == b""
    assert told == ["failed"] * 2
    (record,) = caplog.records
    assert "RuntimeError" in record.getMessage()
    assert "secret" not in caplog.text


async def test_a_caller_who_leaves_harms_nobody(held):
    """Its text is encoded to the end and dropped; the next one has its turn."""
    encoder, encodings, _ = held
    encoder.free.clear()
    leaving = asyncio.create_task(encodings.of(asked(said("Leaving")).call))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    encoder.free.set()
    assert is_embedding(await encodings.of(asked(said("Staying")).call))
    assert encoder.texts == ["Leaving", "Staying"]


def test_the_text_is_the_samples_own():
    """What serving embeds and what training embeds are one text, tools and media aside."""
    request = asked(said("One"), said("Two"))
    assert turn_text(request.call) == sample_of(request, None).text
