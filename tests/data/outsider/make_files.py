"""TF-IDF over the exported passages; the answer is the first sentence of the best one."""

import json
import math
import re
import sys
from collections import Counter
from pathlib import Path


def words(text):
    return re.findall(r"\w+", text.lower())


def lines(path):
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def vector(text, idf):
    counts = Counter(words(text))
    found = {w: (1 + math.log(n)) * idf[w] for w, n in counts.items() if w in idf}
    length = math.sqrt(sum(v * v for v in found.values())) or 1.0
    return {w: v / length for w, v in found.items()}


def main(folder):
    passages = lines(folder / "passages.jsonl")
    texts = {p["id"]: f"{p['title']} {p['text']}" for p in passages}
    seen = Counter(w for text in texts.values() for w in set(words(text)))
    idf = {w: math.log(len(texts) / n) for w, n in seen.items()}
    vectors = {name: vector(text, idf) for name, text in texts.items()}
    plain = {p["id"]: p["text"] for p in passages}
    with (folder / "my.trec").open("w") as run, (folder / "my.jsonl").open("w") as answers:
        for topic in lines(folder / "topics.jsonl"):
            asked = [turn["text"] for turn in topic["history"] if turn["role"] == "user"]
            query = vector(" ".join([*asked[-2:], topic["query"], topic["query"]]), idf)
            scores = {
                name: sum(v * found.get(w, 0.0) for w, v in query.items())
                for name, found in vectors.items()
            }
            best = sorted(scores, key=lambda name: -scores[name])[:100]
            for rank, name in enumerate(best, 1):
                row = (topic["turn_id"], "Q0", name, rank, f"{scores[name]:.6f}", "tfidf")
                run.write("\t".join(map(str, row)) + "\n")
            first = re.split(r"(?<=[.!?])\s", plain[best[0]], maxsplit=1)[0]
            answers.write(json.dumps({"turn_id": topic["turn_id"], "answer": first}) + "\n")


main(Path(sys.argv[1]))
