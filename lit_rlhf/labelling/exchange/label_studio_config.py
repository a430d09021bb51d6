"""Label Studio's labelling configs: what a project shows and asks, in XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from lit_rlhf.labelling.verdicts import HIGHEST_RATING, Mode


@dataclass(frozen=True)
class LabellingConfig:
    """What an import has to know of a project."""

    sides: tuple[str, str] | None = None
    """Fields of a task's data that `Pairwise` compares, left and right."""
    items: str | None = None
    """Field with the items of a `List`."""
    response: str | None = None
    """Field of the one text that is rated or corrected."""
    buckets: tuple[str, ...] = ()
    """Names of the ranker's buckets, in order."""


def read_config(path: Path) -> LabellingConfig:
    """A labelling config that lies beside a file of tasks.

    Raises:
        ValueError: it is no XML.
    """
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8-sig"))
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a labelling config in XML, found {error}") from None
    fields = {
        tag.get("name"): tag.get("value", "").removeprefix("$") for tag in root.iter() if tag.get("name")
    }
    sides = items = response = None
    for tag in root.iter():
        names = [fields.get(name.strip()) for name in tag.get("toName", "").split(",")]
        if tag.tag == "Pairwise" and len(names) == 2 and all(names):
            sides = (str(names[0]), str(names[1]))
        elif tag.tag == "Ranker":
            items = names[0]
        elif tag.tag == "Rating":
            response = names[0]
    buckets = tuple(name for tag in root.iter("Bucket") if (name := tag.get("name")))
    return LabellingConfig(sides, items, response, buckets)


def labelling_config(mode: Mode, most: int) -> str:
    """The config of a project that asks what a store's items ask, under the names that its tasks use.

    Args:
        mode: of the items.
        most: responses of the largest item; a ranking has a bucket a rank, so that ties can be said.
    """
    ask = {
        "pairwise": _PAIRWISE,
        "ranking": _RANKING.format(buckets="\n".join(f"    {_bucket(rank)}" for rank in range(1, most + 1))),
        "rating": _RATING,
        "rewrite": _REWRITE,
    }[mode]
    return f'<View>\n  <Text name="prompt" value="$prompt"/>\n{ask}{_REMARKS}</View>\n'


def _bucket(rank: int) -> str:
    title = "1, the best" if rank == 1 else str(rank)
    return f'<Bucket name="rank_{rank}" title="{title}"/>'


_PAIRWISE = """\
  <Pairwise name="comparison" toName="response_a,response_b"/>
  <View style="display: flex; gap: 1em">
    <Text name="response_a" value="$response_a"/>
    <Text name="response_b" value="$response_b"/>
  </View>
  <Choices name="verdict" toName="prompt" choice="single">
    <Choice value="slightly better"/>
    <Choice value="tie"/>
    <Choice value="both bad"/>
  </Choices>
"""
_RANKING = """\
  <List name="responses" value="$items" title="Responses"/>
  <Ranker name="ranking" toName="responses">
{buckets}
  </Ranker>
  <Choices name="verdict" toName="prompt" choice="single">
    <Choice value="slightly better"/>
    <Choice value="both bad"/>
  </Choices>
"""
_RATING = f"""\
  <Text name="response" value="$response"/>
  <Rating name="rating" toName="response" maxRating="{HIGHEST_RATING}"/>
"""
_REWRITE = """\
  <Text name="response" value="$response"/>
  <TextArea name="correction" toName="response" maxSubmissions="1" rows="8" editable="true"/>
"""
_REMARKS = """\
  <TextArea name="comment" toName="prompt" maxSubmissions="1" placeholder="comment"/>
  <TextArea name="flag" toName="prompt" maxSubmissions="1" placeholder="what is wrong with this item"/>
"""
