"""The one class of this package."""


class TitleMatch:
    """Ranks passages by the words that they share with the question."""

    def __init__(self, settings, context):
        self._least = settings["least_letters"]

    def fingerprint(self):
        return {"least_letters": self._least}

    def retrieve(self, turns, corpus, depth, progress):
        words = {p.passage_id: self._words(p.contents) for p in corpus}
        for turn in turns:
            asked = self._words(" ".join(turn.asked("session")))
            scored = [(name, float(len(asked & found))) for name, found in words.items()]
            yield turn.turn_id, sorted(scored, key=lambda row: (-row[1], row[0]))[:depth]

    def _words(self, text):
        return {word for word in text.lower().split() if len(word) >= self._least}
