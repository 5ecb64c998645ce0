"""The remote model APIs behind one interface; each module here is the only place that knows its provider's wire."""
