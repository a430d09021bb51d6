"""Exports as training data: a reward model and DPO take them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_rlhf import DPOModule, PairDataModule, RankingDataModule, RewardModule
from lit_rlhf.labelling.export import ExportSettings, export_judgements
from lit_rlhf.labelling.export_files import rows_as_bytes, write_whole
from lit_rlhf.labelling.items import Item
from lit_rlhf.labelling.verdicts import Verdict
from tests.labelling.export_cases import BOTH_BAD, FIRST, SECOND, judged, order
from tests.modules.training import quiet_trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "data", "rows", "votes", "name"),
    [
        (RewardModule, RankingDataModule, "rankings", "each", "f.jsonl"),
        (RewardModule, RankingDataModule, "rankings", "min-agree", "f.csv"),
        (RewardModule, PairDataModule, "pairs", "each", "f.csv"),
        (RewardModule, PairDataModule, "votes", "each", "f.jsonl.gz"),
        (DPOModule, PairDataModule, "pairs", "majority", "f.jsonl"),
        (DPOModule, PairDataModule, "votes", "each", "f.jsonl"),
        (DPOModule, RankingDataModule, "rankings", "majority", "f.jsonl"),
    ],
)
def test_exports_train(
    module: Any, data: Any, rows: Any, votes: Any, name: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    judgements = []
    for number in range(1, 9):
        pair = Item("pairwise", f"the cat {number}", ("sat here", "ran"), row_id=f"{number}", number=number)
        triple = Item("ranking", f"a dog {number}", ("ate", "slept well", "barked"), number=number + 100)
        rated = Item("rating", f"a bird {number}", ("sang", "flew"), number=number + 200)
        for place, (annotator, verdict) in enumerate([("ann", FIRST), ("bea", SECOND), ("cem", BOTH_BAD)]):
            base = number * 100 + place * 10
            judgements.append(judged(base, pair, annotator, verdict, seconds=2.5))
            judgements.append(judged(base + 1, triple, annotator, order(2, (0, 1)), flag="f" * (number == 3)))
            judgements.append(judged(base + 2, rated, annotator, Verdict(ratings=(place + 1, 4))))
    exported = export_judgements(judgements, ExportSettings(rows, votes))
    path = tmp_path / name
    write_whole(path, rows_as_bytes(path, exported.rows))
    trainer = quiet_trainer(fast_dev_run=True)
    trainer.fit(module(str(tiny_model_dir)), data(str(path), batch_size=4, val_fraction=0.25))
    assert trainer.global_step == 1
