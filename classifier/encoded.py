"""Labelled rows with the embeddings of their texts: what training takes when there is a text encoder.

Rule: a row of text becomes a row of features with its embedding; a row of stored features keeps what it has. After
that training needs no encoder. It does not know how embeddings are weighed (`pipeline`).
"""

from __future__ import annotations

from classifier.dataset import Dataset, LabelledFeatures, LabelledSample
from classifier.encoder import Embedder


def encoded(dataset: Dataset, embedder: Embedder | None) -> Dataset:
    """The same rows with embeddings; `dataset` itself without an encoder.

    Raises:
        EncoderError: The encoder failed.
    """
    if embedder is None:
        return dataset
    texts = [row.sample.text for row in dataset.rows if isinstance(row, LabelledSample)]
    embeddings = iter(embedder.embed(texts))
    return Dataset(
        tuple(
            _with_embedding(row, next(embeddings)) if isinstance(row, LabelledSample) else row
            for row in dataset.rows
        )
    )


def _with_embedding(row: LabelledSample, embedding: bytes) -> LabelledFeatures:
    return LabelledFeatures(
        id=row.id,
        features=row.extracted().encoded(embedding),
        label=row.label,
        weight=row.weight,
        target=row.target,
        group=row.group,
        kind=row.kind,
        flash_quality=row.flash_quality,
        opus_quality=row.opus_quality,
        rank=row.rank,
        subject=row.subject,
        own_share=row.own_share,
    )
