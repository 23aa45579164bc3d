"""Scores on public text do what their papers claim: they tell wanted from unwanted rows, by AUROC."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from ray_app import registry

pytestmark = pytest.mark.slow


def read(path: Path, *columns: str) -> dict[str, np.ndarray]:
    table = pq.read_table(path, columns=list(columns)).to_pandas()
    return {name: table[name].to_numpy() for name in columns}


def passages(folder: Path, style: str, half: int) -> dict[str, np.ndarray]:
    """English passages of half of the documents: what one learns from, the other has never seen."""
    rows = read(folder / "web_text" / "passages.parquet", "text", "style", "lang", "doc_id")
    halves = np.array([zlib.crc32(name.encode()) % 2 for name in rows["doc_id"]])
    return {"text": rows["text"][(rows["lang"] == "en") & (rows["style"] == style) & (halves == half)]}


def auroc(wanted: np.ndarray, unwanted: np.ndarray) -> float:
    truth = np.repeat([1, 0], [len(wanted), len(unwanted)])
    return float(roc_auc_score(truth, np.concatenate([wanted, unwanted])))


def build(name: str, **options: Any) -> Any:
    return registry.build("scorers", name, options)


def test_perplexity_of_edited_text_is_lower_than_that_of_spam_and_of_another_language(
    reference_data: Path,
) -> None:
    scorer = build("perplexity", order=5).fit(passages(reference_data, "edited", 0))
    edited, spam = (
        scorer.score(passages(reference_data, "edited", 1)),
        scorer.score(passages(reference_data, "spam", 1)),
    )
    rows = read(reference_data / "web_text" / "passages.parquet", "text", "lang")
    finnish = scorer.score({"text": rows["text"][rows["lang"] == "fi"][:200]})
    assert auroc(-edited, -spam) > 0.8
    assert auroc(-edited, -finnish) > 0.99


def test_heuristics_prefer_articles_to_whole_pages_and_prose_to_code(reference_data: Path) -> None:
    scorer = build("heuristics")
    pages = read(reference_data / "web_pages" / "pages.parquet", "article_text", "page_text")
    marked = np.array([len(text) > 200 for text in pages["article_text"]])
    article, page = (scorer.score({"text": pages[name][marked]}) for name in ("article_text", "page_text"))
    assert auroc(article, page) > 0.9
    # The same page, with and without its menus.
    assert (article >= page).mean() > 0.95
    code = scorer.score(read(reference_data / "code_language" / "files.parquet", "text"))
    assert auroc(scorer.score(passages(reference_data, "edited", 1)), code) > 0.93


@pytest.mark.parametrize(("name", "least"), [("sst2", 0.88), ("hate_speech", 0.95)])
def test_hashed_text_learns_what_is_wanted(reference_data: Path, name: str, least: float) -> None:
    train, test = (
        read(reference_data / name / f"{split}.parquet", "text", "label") for split in ("train", "test")
    )
    # Of tweets, those are wanted that annotators found neither hateful nor offensive.
    number = 1 if name == "sst2" else 2
    scorer = build("hashed_text").fit(train, (train["label"] == number).astype(np.int64))
    score = scorer.score(test)
    assert auroc(score[test["label"] == number], score[test["label"] != number]) > least
